"""Held-out questions about pictures, in order and without augmentation."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from engine.config import ConfigError
from engine.data.captions import clean_question
from engine.data.images import BadSample
from engine.data.source import Source
from engine.data.videos import evaluation_pixels


@dataclass
class QuestionSet:
    """Questions once each; a picture once for the questions about it that follow each other.

    Args:
        source: questions.
        image_size: side of the views.
        max_words: of cleaned questions.
        max_pixels: larger pictures are bad.
        frames: seen of each, where they are videos.

    Attributes:
        keys: of the questions whose pictures could be read, in order.
        ids: theirs, as JSON.
        questions: theirs, cleaned.
        people: what people answered to them, empty where that is not known.
        bad: (key, reason) of what was left out.
        bad_ids: of the same.
    """

    source: Source
    image_size: int
    max_words: int
    max_pixels: int
    frames: int | None = None
    keys: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    people: list[tuple[str, ...]] = field(default_factory=list)
    bad: list[tuple[str, str]] = field(default_factory=list)
    bad_ids: list[str] = field(default_factory=list)

    def views(self, batch_size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Batches: pictures [P, 3, H, W], or videos [P, F, 3, H, W], and for each of the batch's
        questions its own.

        Fills the attributes as it goes.

        Args:
            batch_size: questions of a batch.

        Raises:
            ConfigError: not one usable question, or a video that cannot be used.
        """
        pictures: list[torch.Tensor] = []
        owners: list[int] = []
        shown = None
        for number in range(len(self.source)):
            raw = self.source.read(number)
            try:
                if raw.problem:
                    raise BadSample(raw.problem)
                question = clean_question(raw.captions[0], self.max_words)
                if not pictures or raw.image_id != shown:
                    seeing = (self.image_size, self.max_pixels, self.frames)
                    pictures.append(evaluation_pixels(raw.image, *seeing))
                    shown = raw.image_id
            except BadSample as bad:
                if self.frames:
                    raise ConfigError(f"{raw.key}: not a usable video: {bad.reason}") from None
                self.bad.append((raw.key, bad.reason))
                self.bad_ids.append(raw.uid)
                continue
            owners.append(len(pictures) - 1)
            self.keys.append(raw.key)
            self.ids.append(raw.uid)
            self.questions.append(question)
            self.people.append(raw.people)
            if len(owners) == batch_size:
                yield torch.stack(pictures), owners
                pictures, owners = [], []
        if owners:
            yield torch.stack(pictures), owners
        if not self.keys:
            raise ConfigError(f"no usable question for evaluation; the first: {self.bad[:1]}")
