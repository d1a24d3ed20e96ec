"""A shard in work: its rows, what became of them so far, and how it is finished."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from engine.collect.web.config import ScreenSection, uid_of
from engine.collect.web.folder import CollectionFolder, Members
from engine.collect.web.journal import Journal, Outcome
from engine.collect.web.lists import Row
from engine.collect.web.look import Look
from engine.collect.web.near import NearIndex


class Copies:
    """What must not be met twice: pictures of the evaluation sets, and those collected already.

    Args:
        section: of the settings.
        evaluation: pictures of the evaluation sets, or None.
    """

    def __init__(self, section: ScreenSection, evaluation: NearIndex | None) -> None:
        self.evaluation = evaluation
        self.kept = None
        if section.near is not None:
            self.kept = NearIndex(section.near, section.near_colour)

    def remember(self, look: Look, row: int) -> None:
        """A picture that is kept."""
        if self.kept is not None:
            self.kept.add(look, row)

    def against(self, look: Look) -> tuple[str, int | None]:
        """Reason against a picture, and the row that it is a copy of; ("", None) where there is
        none."""
        if self.evaluation is not None and self.evaluation.find(look) is not None:
            return "evaluation_copy", None
        found = None if self.kept is None else self.kept.find(look)
        return ("copy" if found is not None else ""), found


class ShardWork:
    """Rows that belong to one shard.

    Args:
        number: of the shard.
        rows: of the lists.
        journal: of the shard, with what a launch before has fetched.
    """

    def __init__(self, number: int, rows: Sequence[Row], journal: Journal) -> None:
        self.number, self.rows, self.journal = number, rows, journal
        self._refused: dict[int, Outcome] = {}

    def refuse(self, row: int, reason: str) -> None:
        """A row that nobody is asked for, whatever a launch before has found."""
        self.journal.outcomes.pop(row, None)
        self._refused[row] = Outcome(row, reason)

    def open(self, row: int) -> bool:
        """Whether it is still to be found out what becomes of a row."""
        return row not in self.journal.outcomes and row not in self._refused

    @property
    def known(self) -> int:
        """Rows of which it is known."""
        return len(self.journal.outcomes) + len(self._refused)

    @property
    def complete(self) -> bool:
        """Whether that is all of them."""
        return self.known == len(self.rows)

    def finish(self, folder: CollectionFolder, copies: Copies) -> None:
        """Write the shard. Copies are found in the order of the lists, so whoever answered first
        changes nothing."""
        table: list[dict[str, Any]] = []
        folder.finish(self.number, self._samples(copies, table), table)
        self.journal.close()

    def _samples(self, copies: Copies, table: list[dict[str, Any]]) -> Iterator[Members]:
        for row in self.rows:
            outcome = self._refused.get(row.number) or self.journal.outcomes[row.number]
            copy_of, look = None, None
            if not outcome.reason:
                look = Look.from_bytes(bytes.fromhex(outcome.look))
                reason, copy_of = copies.against(look)
                outcome = replace(outcome, reason=reason)
            table.append(_table_row(row, outcome, copy_of))
            if look is not None and not outcome.reason:
                copies.remember(look, row.number)
                yield _sample(row, outcome, self.journal.content(outcome))


def _key(row: Row) -> str:
    return f"{row.number:09d}"


def _table_row(row: Row, outcome: Outcome, copy_of: int | None) -> dict[str, Any]:
    kept = not outcome.reason
    return {
        "row": row.number,
        "uid": uid_of(row.url or "", row.caption or ""),
        "url": row.url,
        "key": _key(row) if kept else None,
        "kept": kept,
        "reason": outcome.reason,
        "status": outcome.status,
        "bytes": outcome.size,
        "redirects": outcome.redirects,
        "tries": outcome.tries,
        "width": outcome.width,
        "height": outcome.height,
        "copy_of": copy_of,
        "look": bytes.fromhex(outcome.look) if kept else None,
    }


def _sample(row: Row, outcome: Outcome, content: bytes) -> Members:
    facts = {
        "uid": uid_of(row.url or "", row.caption or ""),
        "url": row.url,
        "source": outcome.source,
        "width": outcome.width,
        "height": outcome.height,
    }
    text = json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()
    caption = (row.caption or "").encode()
    return _key(row), [(outcome.extension, content), ("txt", caption), ("json", text)]
