"""Held-out samples gone through in order by all processes together, a batch at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

import torch

from engine.config import ConfigError
from engine.data.augment import evaluation_view
from engine.data.images import BadSample, decode_image
from engine.data.picture_files import printable
from engine.data.source import RawSample, Source
from engine.data.videos import decode_video
from engine.progress import Progress
from engine.share import Share

# Kept of a text, at least: the original's evaluation keeps so many, whatever training did.
MAX_TOKENS = 35
Thing = TypeVar("Thing")
Lists = dict[str, list[Any]]


@dataclass(frozen=True)
class Own:
    """What of a batch of this process counts.

    Attributes:
        number: of the batch's first row in the source.
        places: in the batch.
        positions: of the same in the set's lists.
    """

    number: int
    places: list[int]
    positions: range


@dataclass
class HeldOut:
    """A set whose lists are filled while its batches are gone through.

    A batch is made of `batch_size` rows of the source, whatever is wrong with some of them, so that
    it is the same for any number of processes. While it is out the lists hold what is in it; after
    the last one they hold everything, of all processes in the order of the source.

    Args:
        source: rows.
        image_size: side of the views.
        max_words: of cleaned texts.
        max_pixels: larger pictures are bad.
        frames: seen of each, where they are videos.

    Attributes:
        share: of this process; set before batches are asked for.
        max_tokens: of texts that are read with the pictures; set before batches are asked for.
        max_bad_fraction: of the rows; figures of fewer would say nothing about the set.
        keys: of the items that could be read.
        rows: of the source, of the same items.
        bad: (key, reason) of what was left out.
    """

    source: Source
    image_size: int
    max_words: int
    max_pixels: int
    frames: int | None = None
    share: Share = field(default_factory=Share, init=False)
    max_tokens: int = field(default=MAX_TOKENS, init=False)
    max_bad_fraction: float = field(default=1.0, init=False)
    keys: list[str] = field(default_factory=list, init=False)
    rows: list[int] = field(default_factory=list, init=False)
    bad: list[tuple[str, str]] = field(default_factory=list, init=False)
    own: list[Own] = field(default_factory=list, init=False)

    def progress(self, verb: str, noun: str, batch_size: int) -> Progress:
        """How far this process is with its rows; the first one says it."""
        total = sum(map(len, self.share.parts(len(self.source), batch_size)))
        return Progress(verb, noun, total, self.share.here.is_main)

    def gathered(self, made: Sequence[Sequence[Thing]]) -> list[Thing]:
        """What was made of the batches, item by item, of all processes in order. Collective.

        Args:
            made: for each batch of this process one thing an item, or a tensor [B, ...].

        Raises:
            OthersError: another process has failed.
        """
        mine = {}
        for batch, own in zip(made, self.own, strict=True):
            # A tensor's rows go as one: each by itself would bring the whole batch's storage along.
            whole = isinstance(batch, torch.Tensor)
            mine[own.number] = batch[own.places].cpu() if whole else [batch[n] for n in own.places]
        return [thing for part in self.share.gathered(mine).values() for thing in part]

    def _refuse_problem(self, raw: RawSample) -> None:
        """What a source could not give whole is no sample.

        Raises:
            BadSample: it could not, and is a picture.
            ConfigError: it could not, and is a video: those are few, and none may be missing.
        """
        if raw.problem and self.frames:
            raise ConfigError(_no_video(raw, raw.problem))
        if raw.problem:
            raise BadSample(raw.problem)

    def _pixels(self, raw: RawSample) -> torch.Tensor:
        """[3, H, W] of its picture, or [F, 3, H, W] of its video.

        Raises:
            BadSample: a picture that cannot be used.
            ConfigError: a video that cannot.
        """
        if self.frames is None:
            return evaluation_view(decode_image(raw.image, self.max_pixels), self.image_size)
        try:
            pictures = decode_video(raw.image, self.frames, self.max_pixels)
        except BadSample as bad:
            raise ConfigError(_no_video(raw, bad.reason)) from None
        return torch.stack([evaluation_view(picture, self.image_size) for picture in pictures])

    def _parts(self, size: int, what: str) -> Iterator[range]:
        """Rows of this process's batches; the lists are fresh for each. Collective at its end.

        Raises:
            ConfigError: not one usable row of all, or too many that are not.
        """
        names = [one.name for one in fields(self) if one.name not in ("share", "own")]
        names = [name for name in names if isinstance(getattr(self, name), list)]
        mine: dict[int, Lists] = {}
        bad: list[tuple[str, str]] = []
        for rows in self.share.parts(len(self.source), size):
            for name in names:
                setattr(self, name, [])
            yield rows
            mine[rows.start] = {name: getattr(self, name) for name in names}
            bad += self.bad
            self._refuse_many(bad)
        for name in names:
            setattr(self, name, [])
        self.own = []
        for number, part in self.share.gathered(mine).items():
            before = len(self.keys)
            places = self._add(part)
            if number in mine and part["keys"]:
                self.own.append(Own(number, places, range(before, len(self.keys))))
        if not self.keys:
            raise ConfigError(f"no usable {what} for evaluation; the first: {self.bad[:1]}")
        self._refuse_many(self.bad)

    def _refuse_many(self, bad: list[tuple[str, str]]) -> None:
        limit, count = self.max_bad_fraction, len(self.source)
        if len(bad) > limit * count:
            key, reason = bad[0]
            raise ConfigError(
                f"bad samples: {len(bad)} of {count}, more than data.max_bad_fraction {limit}; the "
                f"first is {printable(key)} ({reason}): mend the data or raise it"
            )

    def _add(self, part: Lists) -> list[int]:
        """Put the lists of a batch behind those of the batches before.

        Returns:
            Places of the batch's items that are no repetition of earlier ones.
        """
        for name, things in part.items():
            getattr(self, name).extend(things)
        return list(range(len(part["keys"])))


def _no_video(raw: RawSample, reason: str) -> str:
    return f"{raw.place}: {raw.key}: not a usable video: {reason}"
