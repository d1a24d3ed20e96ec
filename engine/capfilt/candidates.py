"""From a shard to the scored candidate texts of its pictures: by the models."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, Protocol

import torch

from engine.capfilt.captioner import Captioner, Group
from engine.capfilt.config import CapFiltConfig
from engine.capfilt.filter import PairFilter
from engine.capfilt.pictures import Bad, Picture, batches
from engine.capfilt.rule import SYNTHETIC, WEB, Candidate
from engine.capfilt.table import Scored
from engine.config import ConfigError
from engine.data.augment import normalised, stacked
from engine.data.captions import clean_caption
from engine.data.images import BadSample
from engine.data.shards import Shards
from engine.inference import LoadedBlip

# Called after each batch with the pictures done so far; may raise to end the work.
Tick = Callable[[int], None]


@dataclass(frozen=True)
class ShardTexts:
    """What was found in a shard.

    Attributes:
        pictures: that could be used, in order, with their texts.
        bad: samples that could not.
    """

    pictures: list[Scored]
    bad: list[Bad]


@dataclass(frozen=True)
class InWork:
    """A batch whose captions are on their way.

    Attributes:
        pictures: of it.
        views: [B, 3, S, S] uint8 by size S, on the device.
        states: [B, P, vision width] of the captioner.
    """

    pictures: list[Picture]
    views: dict[int, torch.Tensor]
    states: torch.Tensor


class Candidates(Protocol):
    """Gives the scored texts of a shard."""

    def __call__(self, name: str, shards: Shards, tick: Tick) -> ShardTexts: ...


@contextmanager
def _named(role: str, place: str | None) -> Iterator[None]:
    """Errors of the context begin with the weights that they are about."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{role} {place}: {error}") from None


class CaptionAndScore:
    """Captions every picture and scores its web and synthetic texts.

    Args:
        config: of the run.
        captioner: weights with a decoder.
        scorer: weights with a text encoder; the same object encodes pictures once.
    """

    def __init__(self, config: CapFiltConfig, captioner: LoadedBlip, scorer: LoadedBlip) -> None:
        self.config = config
        with _named("captioner", config.captioner):
            self.captioner = Captioner(captioner, config.caption, config.seed)
        with _named("filter", config.filter):
            self.filter = PairFilter(scorer, config.data.max_tokens)

    @torch.no_grad()
    def __call__(self, name: str, shards: Shards, tick: Tick) -> ShardTexts:
        """All of a shard; its slots and batches hold nothing else, so that nothing else matters."""
        pictures: list[Scored] = []
        index = shards.index(0)
        bad = [Bad(one.key, one.uid, one.reason) for one in index.unread]
        in_work: deque[InWork] = deque()
        groups = self._groups(shards, in_work, bad)
        # One context for both models, so that weights are cast once a shard.
        with self.captioner.blip.autocast():
            for made in self.captioner.captions(groups, self.config.batch_size):
                pictures += self._score(in_work.popleft(), made)
                tick(len(pictures) + len(bad))
        return ShardTexts(pictures, bad)

    def _groups(self, shards: Shards, in_work: deque[InWork], bad: list[Bad]) -> Iterator[Group]:
        """Encode batch after batch; what is in work, and what cannot be used, is noted."""
        sizes = {blip.model.config.image_size for blip in (self.captioner.blip, self.filter.blip)}
        data = self.config.data
        settings = {"workers": data.workers, "max_pixels": data.max_pixels}
        for good, unusable in batches(shards, self.config.batch_size, sizes, **settings):
            bad += unusable
            if good:
                batch = _on_device(self.captioner.blip, good, sizes)
                in_work.append(batch)
                yield batch.states, [picture.uid for picture in good]

    def _score(self, batch: InWork, made: list[list[str]]) -> list[Scored]:
        pictures, states = batch.pictures, batch.states
        if self.filter.blip is not self.captioner.blip:
            states = _encode(self.filter.blip, batch.views)
        texts = [
            _stored(picture) + [(SYNTHETIC, one) for one in captions]
            for picture, captions in zip(pictures, made, strict=True)
        ]
        cleaned = [[self._clean(text) for _, text in many] for many in texts]
        usable = [[text for text, problem in many if not problem] for many in cleaned]
        scored = []
        scores = self.filter.scores(states, usable)
        for picture, many, forms, pairs in zip(pictures, texts, cleaned, scores, strict=True):
            rest = iter(pairs)
            candidates = []
            for (source, text), (_, problem) in zip(many, forms, strict=True):
                itm, itc = (None, None) if problem else next(rest)
                candidates.append(Candidate(source, _storable(text), itm, itc, problem))
            scored.append(Scored(picture.key, picture.uid, candidates))
        return scored

    def _clean(self, text: Any) -> tuple[str, str]:
        """The text as it is scored, and why it cannot be."""
        try:
            return clean_caption(text, self.config.data.max_words), ""
        except BadSample as bad:
            return "", bad.reason


def _on_device(blip: LoadedBlip, pictures: list[Picture], sizes: set[int]) -> InWork:
    """A batch with its views there, encoded by the captioner."""
    views = {size: stacked([one.views[size] for one in pictures], blip.device) for size in sizes}
    return InWork(pictures, views, _encode(blip, views))


def _encode(blip: LoadedBlip, views: dict[int, torch.Tensor]) -> torch.Tensor:
    with blip.autocast():
        states = blip.model.encode_image(normalised(views[blip.model.config.image_size]))
    if not states.isfinite().all():
        raise ConfigError("the model's states are not finite: its weights are no good")
    return states


def _stored(picture: Picture) -> list[tuple[str, Any]]:
    """A picture's texts with their sources: of a cleaned set, what a captioner wrote stays so."""
    written = chain(picture.synthetic, repeat(False))
    return [
        (SYNTHETIC if synthetic else WEB, text)
        for text, synthetic in zip(picture.captions, written, strict=False)
    ]


def _storable(text: Any) -> str:
    """Text that Arrow can hold."""
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else str(text)
