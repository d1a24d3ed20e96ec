"""Held-out pictures and all their captions, in order and without augmentation."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.config import ConfigError
from engine.data.captions import clean_caption
from engine.data.images import BadSample
from engine.data.source import Source
from engine.data.videos import evaluation_pixels


@dataclass
class EvaluationSet:
    """Pictures once each, with every usable caption.

    Args:
        source: pairs; those of one image id are one picture.
        image_size: side of the views.
        max_words: of cleaned captions.
        max_pixels: larger pictures are bad.
        frames: seen of each, where they are videos.

    Attributes:
        keys: of the pictures that could be read, in order.
        image_ids: of the same pictures.
        domains: of the same pictures, "" where the list names none.
        captions: cleaned texts.
        raw_captions: the same as they are stored.
        caption_image: for each text the position of its picture.
        bad: (key, reason) of what was left out.
    """

    source: Source
    image_size: int
    max_words: int
    max_pixels: int
    frames: int | None = None
    keys: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    raw_captions: list[str] = field(default_factory=list)
    caption_image: list[int] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)

    def views(self, batch_size: int) -> Iterator[torch.Tensor]:
        """[B, 3, H, W] batches, [B, F, 3, H, W] of videos; fills the attributes as it goes.

        Raises:
            ConfigError: not one usable pair, or a video that cannot be used.
        """
        position_of: dict[int, int] = {}
        waiting: list[torch.Tensor] = []
        for number in range(len(self.source)):
            raw = self.source.read(number)
            try:
                if raw.problem:
                    raise BadSample(raw.problem)
                texts = _usable(raw.captions, self.max_words)
                if raw.image_id not in position_of:
                    seeing = (self.image_size, self.max_pixels, self.frames)
                    waiting.append(evaluation_pixels(raw.image, *seeing))
                    position_of[raw.image_id] = len(self.keys)
                    self.keys.append(raw.key)
                    self.image_ids.append(raw.image_id)
                    self.numbers.append(number)
                    self.domains.append(raw.domain)
            except BadSample as bad:
                if self.frames:
                    raise ConfigError(f"{raw.key}: not a usable video: {bad.reason}") from None
                self.bad.append((raw.key, bad.reason))
                continue
            self.captions += [cleaned for cleaned, _ in texts]
            self.raw_captions += [stored for _, stored in texts]
            self.caption_image += [position_of[raw.image_id]] * len(texts)
            if len(waiting) == batch_size:
                yield torch.stack(waiting)
                waiting = []
        if waiting:
            yield torch.stack(waiting)
        if not self.keys:
            raise ConfigError(f"no usable pair for evaluation; the first: {self.bad[:1]}")


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
