"""Features of pictures and texts, and scores of pairs, of many of them, into a file."""

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from engine.bulk.batches import encoded
from engine.bulk.config import EmbedConfig
from engine.bulk.inputs import Place, find_places
from engine.bulk.opened import opened
from engine.bulk.skipped import Skipped
from engine.bulk.tables import FEATURE, refuse_existing, storable, table
from engine.capfilt.filter import PairFilter
from engine.config import ConfigError
from engine.data.captions import clean_caption
from engine.data.images import BadSample
from engine.data.shards import DAMAGED
from engine.data.source import RawSample
from engine.encoding import refuse_not_finite
from engine.inference import LoadedBlip
from engine.progress import Progress

SCORES = {"itm_score": pa.float32(), "itc_score": pa.float32()}
PAIRS = 512
Row = dict[str, Any]


@torch.no_grad()
def embed(config: EmbedConfig) -> str:
    """Write a row a picture, a text, or a pair, in the order given.

    Returns:
        What was done, in a line.

    Raises:
        ConfigError: nothing usable, no model, or an output that cannot be written.
    """
    path = Path(str(config.output))
    refuse_existing(path)
    work = _Work(config)
    if not work.count:
        raise ConfigError(f"nothing usable: {work.skipped}")
    blip = opened(config)
    blip.require("text_encoder")
    rows = {"pictures": work.pictures, "texts": work.texts, "pairs": work.pairs}[config.what]
    written = 0
    with table(path, _schema(config.what, blip.model.config.embed_dim)) as output:
        with blip.autocast():
            for batch in rows(blip):
                output.add(batch)
                written += len(batch)
        if not written:
            raise ConfigError(f"nothing usable: {work.skipped}")
    return f"{path}: {written} {config.what}, {work.skipped}"


def _schema(what: str, width: int) -> pa.Schema:
    names = {"path": pa.string(), "uid": pa.string()}
    if what != "pictures":
        names["text"] = pa.string()
    return pa.schema(
        names | (SCORES if what == "pairs" else {FEATURE: pa.list_(pa.float32(), width)})
    )


class _Work:
    """What there is to do, and what of it could not be done.

    Args:
        config: of the run.

    Attributes:
        count: of samples, or of given texts where no picture is.
        skipped: pictures and texts.
    """

    def __init__(self, config: EmbedConfig) -> None:
        self.config, self.skipped = config, Skipped()
        self._places: list[Place]
        self._places, self.count = find_places(config.pictures, config.image_root, self.skipped.add)
        self._texts = None if config.texts is None else _given(config.texts)
        if not config.pictures and self._texts:
            self.count = len(self._texts)

    def pictures(self, blip: LoadedBlip) -> Iterator[list[Row]]:
        """Features of pictures."""
        for samples, states in self._encoded(blip):
            features = _finite(blip.model.image_feature(states))
            yield [
                _named(sample) | {FEATURE: feature}
                for sample, feature in zip(samples, features, strict=True)
            ]

    def texts(self, blip: LoadedBlip) -> Iterator[list[Row]]:
        """Features of given texts, or of those that the samples hold."""
        config, usable = self.config, self._usable_texts()
        progress = Progress("embedded", "texts", self.count if self._texts else None)
        limit = min(config.max_tokens, blip.model.config.max_positions)
        while batch := list(islice(usable, config.batch_size)):
            ids, mask = blip.tokenizer.encode([text for _, text in batch], limit)
            states = blip.model.encode_text(ids.to(blip.device), mask.to(blip.device))
            features = _finite(blip.model.text_feature(states))
            yield [row | {FEATURE: one} for (row, _), one in zip(batch, features, strict=True)]
            progress.add(len(batch))

    def pairs(self, blip: LoadedBlip) -> Iterator[list[Row]]:
        """Scores of each picture with each of its texts, or with each that is given."""
        judge = PairFilter(blip, self.config.max_tokens)
        given = self._cleaned("texts", self._texts) if self._texts is not None else None
        for samples, states in self._encoded(blip):
            pairs = self._pairs(samples, given)
            # However many texts a picture has, so many pairs are scored at once.
            while part := list(islice(pairs, PAIRS)):
                mine = sorted({number for number, _, _ in part})
                texts = [[text for n, _, text in part if n == number] for number in mine]
                scores = judge.scores(states[mine], texts)
                yield [
                    _named(samples[number]) | {"text": text, "itm_score": itm, "itc_score": itc}
                    for (number, text, _), (itm, itc) in zip(part, chain(*scores), strict=True)
                ]

    def _pairs(
        self, samples: list[RawSample], given: list[tuple[str, str]] | None
    ) -> Iterator[tuple[int, str, str]]:
        """Number of the sample, text as it is stored, text as it is scored."""
        for number, sample in enumerate(samples):
            texts = self._cleaned(sample.key, sample.captions) if given is None else given
            yield from ((number, stored, cleaned) for stored, cleaned in texts)

    def _encoded(self, blip: LoadedBlip) -> Iterator[tuple[list[RawSample], torch.Tensor]]:
        how = {"batch_size": self.config.batch_size, "threads": self.config.threads}
        how["max_pixels"] = self.config.max_pixels
        progress = Progress("embedded", "pictures", self.count)
        return encoded(blip, self._places, progress, self.skipped, **how)

    def _usable_texts(self) -> Iterator[tuple[Row, str]]:
        """Rows of texts, and these as they are encoded."""
        if self._texts is not None:
            for number, text in enumerate(self._texts):
                for _, cleaned in self._cleaned(f"texts[{number}]", [text]):
                    yield {"path": "", "uid": str(number), "text": storable(text)}, cleaned
            return
        for read in (read for place in self._places for read in place.reads()):
            sample = read()
            if sample.problem in DAMAGED:
                self.skipped.add(sample.key, sample.problem)
                continue
            for text, cleaned in self._cleaned(sample.key, sample.captions):
                yield _named(sample) | {"text": text}, cleaned

    def _cleaned(self, name: str, texts: list[Any]) -> list[tuple[str, str]]:
        """Usable texts, as they are stored and as they are encoded; others are skipped."""
        found = []
        for text in texts:
            try:
                found.append((storable(text), clean_caption(text, self.config.max_words)))
            except BadSample as bad:
                self.skipped.add(name, bad.reason)
        if not texts:
            self.skipped.add(name, "no_text")
        return found


def _named(sample: RawSample) -> Row:
    return {"path": storable(sample.key), "uid": storable(sample.uid)}


def _finite(features: torch.Tensor) -> list[Any]:
    refuse_not_finite(features, "features")
    return list(features.float().cpu().numpy())


def _given(texts: str | list[str]) -> list[str]:
    """A list as it is, or the lines of a file that are not empty.

    Web texts hold characters that Python takes for ends of lines and no editor does.
    """
    if isinstance(texts, list):
        return texts
    try:
        lines = Path(texts).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"texts {texts}: {problem}") from None
    found = [line for line in lines if line.strip()]
    if not found:
        raise ConfigError(f"texts {texts}: no text in it")
    return found
