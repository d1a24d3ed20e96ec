"""Held-out questions about pictures, in order and without augmentation."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from engine.data.captions import clean_question
from engine.data.held_out import HeldOut
from engine.data.images import BadSample


@dataclass
class QuestionSet(HeldOut):
    """Questions once each; a picture once for those of a batch that follow each other.

    See `HeldOut`.

    Attributes:
        ids: of the questions in `keys`, as JSON.
        questions: theirs, cleaned.
        image_ids: of their pictures.
        people: what people answered to them, empty where that is not known.
        bad_ids: of what was left out.
    """

    ids: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    people: list[tuple[str, ...]] = field(default_factory=list)
    bad_ids: list[str] = field(default_factory=list)

    def views(self, batch_size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Batches: pictures [P, 3, H, W] and for each of `batch_size` questions its picture.

        Videos are [P, F, 3, H, W]. Of this process's share. Collective at its end.

        Raises:
            ConfigError: not one usable question.
        """
        for rows in self._parts(batch_size, "question"):
            pictures: list[torch.Tensor] = []
            owners: list[int] = []
            shown = None
            for number in rows:
                raw = self.source.read(number)
                try:
                    self._refuse_problem(raw)
                    question = clean_question(raw.captions[0], self.max_words)
                    if not pictures or raw.image_id != shown:
                        pictures.append(self._pixels(raw))
                        shown = raw.image_id
                except BadSample as bad:
                    self.bad.append((raw.key, bad.reason))
                    self.bad_ids.append(raw.uid)
                    continue
                owners.append(len(pictures) - 1)
                self.keys.append(raw.key)
                self.rows.append(number)
                self.ids.append(raw.uid)
                self.questions.append(question)
                self.image_ids.append(raw.image_id)
                self.people.append(raw.people)
            if owners:
                yield torch.stack(pictures), owners
