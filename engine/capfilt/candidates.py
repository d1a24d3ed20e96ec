"""From a shard to the scored candidate texts of its pictures: by the models."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any, Protocol

import torch

from engine.capfilt.captioner import Captioner, Group
from engine.capfilt.config import CapFiltConfig
from engine.capfilt.encoder import Encoder, States
from engine.capfilt.filter import PairFilter
from engine.capfilt.pictures import Bad, Picture, one_ahead, viewed
from engine.capfilt.rule import SYNTHETIC, WEB, Candidate
from engine.capfilt.table import Scored
from engine.config import ConfigError
from engine.data.captions import clean_caption
from engine.data.images import BadSample
from engine.data.shards import Shards
from engine.encoding import not_finite
from engine.inference import LoadedBlip
from kernels.transfer import values_later

# Gives the scored texts of a batch that the filter was asked about.
Asked = Callable[[], list[Scored]]
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
        encoded: by the captioner.
    """

    pictures: list[Picture]
    views: dict[int, torch.Tensor]
    encoded: States


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
        # The captioner's are read by its captions, which may wait for places.
        self._encode = {
            blip: Encoder(blip, config.batch_size, lasting=blip is captioner)
            for blip in dict.fromkeys((captioner, scorer))
        }

    @torch.no_grad()
    def __call__(self, name: str, shards: Shards, tick: Tick) -> ShardTexts:
        """All of a shard; its slots and batches hold nothing else, so that nothing else matters."""
        pictures: list[Scored] = []
        bad = [Bad(one.key, one.uid, one.reason) for one in shards.index(0).unread]
        in_work: deque[InWork] = deque()
        captioned: deque[Callable[[], Asked]] = deque()
        scoring: deque[Asked] = deque()

        def groups() -> Iterator[Group]:
            for batch in self._encoded(shards, bad):
                in_work.append(batch)
                yield batch.encoded.states, [picture.uid for picture in batch.pictures]

        def put_down() -> None:
            while scoring:
                pictures.extend(scoring.popleft()())
                tick(len(pictures) + len(bad))

        def ask() -> None:
            while captioned:
                scoring.append(captioned.popleft()())

        def meanwhile() -> None:
            """A GPU is at the new batch while texts of the last are made ready for the filter."""
            put_down()
            ask()

        # One context for both models, so that weights are cast once a shard.
        with self.captioner.blip.autocast():
            for made in self.captioner.captions(groups(), self.config.batch_size, meanwhile):
                # The filter's states of this batch come where those of the last one are.
                ask()
                captioned.append(self._score(in_work.popleft(), made))
            meanwhile()
            put_down()
        return ShardTexts(pictures, bad)

    def _encoded(self, shards: Shards, bad: list[Bad]) -> Iterator[InWork]:
        """Batch after batch by the captioner; what cannot be used is noted."""
        blip, data = self.captioner.blip, self.config.data
        sizes = {one.model.config.image_size for one in self._encode}
        settings = {"workers": data.workers, "max_pixels": data.max_pixels}
        # With its number: another thread has a GPU of its own in mind.
        device = next(blip.model.parameters()).device
        made = viewed(shards, self.config.batch_size, sizes, device, **settings)
        with closing(one_ahead(made)) as coming:
            for good, unusable, taken in coming:
                bad += unusable
                if good:
                    views = {size: take() for size, take in taken.items()}
                    yield InWork(good, views, self._encode[blip](views))

    def _score(self, batch: InWork, made: list[list[str]]) -> Callable[[], Asked]:
        """What asks the filter for a batch's scores, once its encoder is at the pictures."""
        pictures, encoded = batch.pictures, {"captioner": batch.encoded}
        if self.filter.blip is not self.captioner.blip:
            encoded["filter"] = self._encode[self.filter.blip](batch.views)
        states = encoded.get("filter", batch.encoded).states

        def ask() -> Asked:
            texts = [
                _stored(picture) + [(SYNTHETIC, one) for one in captions]
                for picture, captions in zip(pictures, made, strict=True)
            ]
            cleaned = [[self._clean(text) for _, text in many] for many in texts]
            usable = [[text for text, problem in many if not problem] for many in cleaned]
            scores = self.filter.scores_later(states, usable)
            finite = values_later(torch.stack([one.finite for one in encoded.values()]))

            def scored() -> list[Scored]:
                for role, is_finite in zip(encoded, finite(), strict=True):
                    with _named(role, getattr(self.config, role)):
                        if not is_finite:
                            raise not_finite("states")
                return [
                    Scored(picture.key, picture.uid, _candidates(*rest))
                    for picture, *rest in zip(pictures, texts, cleaned, scores(), strict=True)
                ]

            return scored

        return ask

    def _clean(self, text: Any) -> tuple[str, str]:
        """The text as it is scored, and why it cannot be."""
        try:
            return clean_caption(text, self.config.data.max_words), ""
        except BadSample as bad:
            return "", bad.reason


def _candidates(
    texts: list[tuple[str, Any]], cleaned: list[tuple[str, str]], scores: list[tuple[float, float]]
) -> list[Candidate]:
    """A picture's texts with their sources, the same cleaned, and the scores of those that can be
    scored, as what the rule judges."""
    rest, candidates = iter(scores), []
    for (source, text), (_, problem) in zip(texts, cleaned, strict=True):
        itm, itc = (None, None) if problem else next(rest)
        candidates.append(Candidate(source, _storable(text), itm, itc, problem))
    return candidates


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
