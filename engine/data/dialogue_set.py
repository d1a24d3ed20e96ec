"""Held-out rounds of dialogues, in order and without augmentation; and how right people found
their candidates."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.config import ConfigError
from engine.data.dialogue_text import clean_line, clean_lines
from engine.data.dialogues import round_name
from engine.data.held_out import HeldOut
from engine.data.images import BadSample
from engine.data.json_lists import read_list
from engine.data.source import RawSample


@dataclass(frozen=True)
class Round:
    """A round to rank.

    Attributes:
        key: its name in the store.
        uid: its stable name, see `round_name`.
        lines: what has been said, and the question, cleaned.
        candidates: cleaned.
        right: place of the right one, or None where that is not known.
    """

    key: str
    uid: str
    lines: list[str]
    candidates: list[str]
    right: int | None


@dataclass
class DialogueSet(HeldOut):
    """Rounds once each; a picture once for those of a batch that follow each other; see `HeldOut`.

    Attributes:
        rounds: whose pictures could be read, in order.
        image_ids: of their pictures.
        bad_rounds: what was left out.
    """

    rounds: list[Round] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    bad_rounds: list[Round] = field(default_factory=list)

    def rounds_of(self, candidates: int) -> int:
        """Rounds of a batch of so many candidates, at least one; all have as many as the first."""
        return max(1, candidates // max(1, len(self.source.read(0).answers)))

    def views(self, batch_size: int) -> Iterator[tuple[torch.Tensor, list[int]]]:
        """Batches: pictures [P, 3, H, W], and for each of `batch_size` rounds its picture.

        Of this process's share. Collective at its end.

        Raises:
            ConfigError: not one usable round.
        """
        for rows in self._parts(batch_size, "round of a dialogue"):
            pictures: list[torch.Tensor] = []
            owners: list[int] = []
            shown = None
            for number in rows:
                raw = self.source.read(number)
                one = self._round(raw)
                try:
                    self._refuse_problem(raw)
                    if not pictures or raw.image_id != shown:
                        pictures.append(self._pixels(raw))
                        shown = raw.image_id
                except BadSample as bad:
                    self.bad.append((raw.key, bad.reason))
                    self.bad_rounds.append(one)
                    continue
                owners.append(len(pictures) - 1)
                self.keys.append(raw.key)
                self.rows.append(number)
                self.image_ids.append(raw.image_id)
                self.rounds.append(one)
            if owners:
                yield torch.stack(pictures), owners

    def _round(self, raw: RawSample) -> Round:
        right = next((place for place, (_, true) in enumerate(raw.answers) if true), None)
        candidates = [clean_line(text, self.max_words) for text, _ in raw.answers]
        return Round(raw.key, raw.uid, clean_lines(raw, self.max_words), candidates, right)


@dataclass(frozen=True)
class Relevance:
    """How right people found the candidates of some rounds.

    Attributes:
        path: of the file.
        of_round: by `round_name`: its row in the file, and a share of people for each candidate.
    """

    path: Path
    of_round: dict[str, tuple[int, np.ndarray]]

    @classmethod
    def read(cls, path: Path) -> "Relevance":
        """VisDial's dense annotations: `[{"image_id", "round_id", "gt_relevance": [shares]}]`.

        Those of training call the shares `relevance`.

        Raises:
            ConfigError: the file cannot be read, or a row is wrong; names it.
        """
        found: dict[str, tuple[int, np.ndarray]] = {}
        for number, row in enumerate(read_list(path, "dense annotations")):
            problem = _problem(row)
            if problem:
                raise ConfigError(f"{path}: row {number} {problem}")
            shares = row.get("gt_relevance", row.get("relevance"))
            name = round_name(row["image_id"], row["round_id"])
            if name in found:
                raise ConfigError(
                    f"{path}: row {number} is about the round of row {found[name][0]}"
                )
            found[name] = (number, np.asarray(shares, float))
        return cls(path, found)

    def of(self, one: Round) -> np.ndarray | None:
        """Shares of a round's candidates, or None where it was not asked about.

        Raises:
            ConfigError: another number of them than of candidates.
        """
        number, shares = self.of_round.get(one.uid, (0, None))
        if shares is not None and len(shares) != len(one.candidates):
            raise ConfigError(
                f"{self.path}: row {number} has {len(shares)} shares for the "
                f"{len(one.candidates)} candidates of {one.key}"
            )
        return shares


def _problem(row: Any) -> str | None:
    """What is wrong with a row, or None."""
    if not isinstance(row, dict):
        return f"is no annotation: {str(row)[:40]!r}"
    for key in ("image_id", "round_id"):
        if not isinstance(row.get(key), int):
            return f"has no {key!r} that is a number"
    shares = row.get("gt_relevance", row.get("relevance"))
    good = isinstance(shares, list) and all(
        isinstance(share, int | float) and 0 <= share <= 1 for share in shares
    )
    return None if good else "has no 'gt_relevance' with a share from 0 to 1 for each candidate"
