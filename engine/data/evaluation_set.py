"""Held-out pictures and all their captions, in order and without augmentation."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.data.captions import clean_caption
from engine.data.held_out import HeldOut, Lists
from engine.data.images import BadSample


@dataclass
class EvaluationSet(HeldOut):
    """Pictures once each, with every usable caption; see `HeldOut`.

    Pairs of one image id are one picture. Where they lie in several batches, it is shown in each,
    and the first one counts.

    Args:
        textless: a picture may have no caption at all.

    Attributes:
        image_ids: of the pictures in `keys`.
        domains: of the same pictures, "" where the list names none.
        captions: cleaned texts.
        raw_captions: the same as they are stored.
        caption_image: for each text the position of its picture.
        bad_ids: of the pictures of what was left out.
    """

    textless: bool = False
    image_ids: list[int] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    raw_captions: list[str] = field(default_factory=list)
    caption_image: list[int] = field(default_factory=list)
    bad_ids: list[int] = field(default_factory=list)

    def views(self, batch_size: int) -> Iterator[torch.Tensor]:
        """[B, 3, H, W] of every `batch_size` pairs, [B, F, 3, H, W] of videos.

        Of this process's share. Collective at its end.

        Raises:
            ConfigError: not one usable pair.
        """
        for rows in self._parts(batch_size, "pair"):
            views: dict[int, torch.Tensor] = {}
            for number in rows:
                self._read(number, views)
            if views:
                yield torch.stack(list(views.values()))

    def _read(self, number: int, views: dict[int, torch.Tensor]) -> None:
        raw = self.source.read(number)
        try:
            self._refuse_problem(raw)
            empty = self.textless and all(map(_is_empty, raw.captions))
            texts = [] if empty else _usable(raw.captions, self.max_words)
            if raw.image_id not in views:
                views[raw.image_id] = self._pixels(raw)
                self.keys.append(raw.key)
                self.rows.append(number)
                self.image_ids.append(raw.image_id)
                self.domains.append(raw.domain)
        except BadSample as bad:
            self.bad.append((raw.key, bad.reason))
            self.bad_ids.append(raw.image_id)
            return
        self.captions += [cleaned for cleaned, _ in texts]
        self.raw_captions += [stored for _, stored in texts]
        self.caption_image += [self.image_ids.index(raw.image_id)] * len(texts)

    def _add(self, part: Lists) -> list[int]:
        """Lists of a batch behind the others; a picture that is there already stays the one."""
        position_of, new = {one: place for place, one in enumerate(self.image_ids)}, []
        for place, image_id in enumerate(part["image_ids"]):
            if image_id not in position_of:
                position_of[image_id] = len(position_of)
                new.append(place)
        for name in ("keys", "rows", "image_ids", "domains"):
            getattr(self, name).extend(part[name][place] for place in new)
        for name in ("captions", "raw_captions", "bad", "bad_ids"):
            getattr(self, name).extend(part[name])
        ids = part["image_ids"]
        self.caption_image += [position_of[ids[place]] for place in part["caption_image"]]
        return new


def _is_empty(caption: Any) -> bool:
    return isinstance(caption, str) and not caption.strip()


def _usable(captions: list[Any], max_words: int) -> list[tuple[str, str]]:
    """Texts, cleaned and as stored; one that is unusable is passed over.

    Raises:
        BadSample: no caption, or none that is usable.
    """
    texts, reason = [], "empty_caption"
    for caption in captions:
        try:
            texts.append((clean_caption(caption, max_words), caption))
        except BadSample as bad:
            reason = bad.reason
    if not texts:
        raise BadSample(reason)
    return texts
