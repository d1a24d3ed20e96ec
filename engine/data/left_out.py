"""What a set of pairs does without: all of it in a file with the reasons, the first of it shown."""

import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from engine.data.picture_files import bounded, first_of, printable

# Named as captioning and filtering names what it could not use.
QUARANTINE = "quarantine.jsonl"
# Of each reason so many are shown, by so many characters of their names.
SHOWN, LONGEST = 3, 100


class LeftOut:
    """Counts what is left out and writes it down, a JSON line each: `file`, `row` of it (from 0;
    null where it is none), `key`, `uid`, `reason`; of a shard that cannot be read `file`, `reason`.

    Args:
        path: of the lines; there is no such file where nothing is left out.
        damaged: shards that cannot be read, each with the reason.
    """

    def __init__(self, path: Path, damaged: dict[Path, str]) -> None:
        self.reasons: Counter[str] = Counter()
        self._path, self._damaged = path, damaged
        self._first: dict[str, list[str]] = {}
        self._file: TextIO | None = None

    def add(self, file: Path, row: int | None, key: str, uid: str, reason: str) -> None:
        """One more."""
        self.reasons[reason] += 1
        first = self._first.setdefault(reason, [])
        if len(first) < SHOWN:
            place = file if row is None else f"{file} row {row}"
            first.append(f"{printable(key)[:LONGEST]} ({printable(place)})")
        facts = {"row": row, "key": bounded(key), "uid": bounded(uid), "reason": reason}
        self._write({"file": str(file)} | facts)

    def lines(self) -> list[str]:
        """A line a reason, the commonest first: how many, and the first of them."""
        found = []
        for reason, count in self.reasons.most_common():
            more = ", ..." if count > SHOWN else ""
            found.append(f"{count} {reason}: {', '.join(self._first[reason])}{more}")
        return found

    def _write(self, facts: dict[str, Any]) -> None:
        if self._file is None:
            self._file = self._path.open("w", encoding="utf-8")
        self._file.write(f"{json.dumps(facts)}\n")

    def __enter__(self) -> "LeftOut":
        self._path.unlink(missing_ok=True)
        for shard, reason in self._damaged.items():
            self._write({"file": str(shard), "reason": reason})
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


def unreadable(damaged: dict[Path, str]) -> str:
    """How many shards cannot be read, and the first of them, each with the reason."""
    named = [f"{shard}: {reason}" for shard, reason in damaged.items()]
    shards = "1 shard" if len(damaged) == 1 else f"{len(damaged)} shards"
    return f"{shards} that cannot be read: {first_of(named, between='; ')}"
