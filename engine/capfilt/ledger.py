"""The ledger: a small JSON file a finished shard says what it was made from and what came out.

It holds no time and no machine: it is, like all the output, a function of input, weights, settings
and seed.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from engine.capfilt.folder import OutputFolder
from engine.config import ConfigError

DONE, QUARANTINED = "done", "quarantined"
# Counts by reason.
COUNTED = ("web", "synthetic", "bad")


@dataclass(frozen=True)
class Entry:
    """A finished shard.

    Attributes:
        status: `done`, or `quarantined` when the shard itself could not be read.
        run: hash of the run's identity.
        input: `file`, `bytes` and `fingerprint` (of its index) or `digest` (where it has none).
        output: `bytes` and `xxh3_128` of the cleaned shard; empty for a quarantined one.
        table: the same of the table, and `rows`.
        counts: pairs read and written, texts by source and reason, bad samples by reason.
        reason: why it was quarantined.
    """

    status: str
    run: str
    input: dict[str, Any]
    output: dict[str, Any] = field(default_factory=dict)
    table: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    reason: str = ""

    def to_bytes(self) -> bytes:
        """As the ledger stores it."""
        return (json.dumps(self.__dict__, indent=1) + "\n").encode()


class Ledger:
    """Which shards of an output folder are finished.

    Args:
        folder: the output.
        run: hash of the run's identity.
    """

    def __init__(self, folder: OutputFolder, run: str) -> None:
        self.folder, self.run = folder, run
        self._read: dict[str, Entry] = {}

    def path(self, name: str) -> Path:
        """The file of a shard."""
        return self.folder.ledger / f"{name}.json"

    def has(self, name: str) -> bool:
        """Whether a shard is finished."""
        return self.path(name).exists()

    def finished(self) -> set[str]:
        """Names of all finished shards."""
        return {n[:-5] for n in os.listdir(self.folder.ledger) if n.endswith(".json")}

    def read(self, name: str) -> Entry:
        """What a shard's file says; kept in memory.

        Raises:
            FileNotFoundError: it is not finished.
            ConfigError: damaged, or of another run.
        """
        if name not in self._read:
            try:
                entry = Entry(**json.loads(self.path(name).read_text(encoding="utf-8")))
                if entry.run != self.run or entry.status not in (DONE, QUARANTINED):
                    raise ValueError
                _refuse_damaged(entry)
            except FileNotFoundError:
                raise
            except (OSError, ValueError, TypeError, KeyError):
                raise ConfigError(
                    f"{self.path(name)}: damaged; delete it to make its shard again"
                ) from None
            self._read[name] = entry
        return self._read[name]

    def forget(self, name: str) -> None:
        """A shard must be made again."""
        self._read.pop(name, None)
        self.path(name).unlink(missing_ok=True)

    def look_again(self) -> None:
        """Read every entry anew: another process may have made its shard again."""
        self._read.clear()

    def entries(self, names: Iterable[str]) -> list[Entry]:
        """Those of the finished ones among some shards."""
        found = []
        for name in names:
            # Another process that starts may find that a shard must be made again.
            with contextlib.suppress(FileNotFoundError):
                found.append(self.read(name))
        return found


def _refuse_damaged(entry: Entry) -> None:
    """Look for everything that is read of an entry later.

    Raises:
        ValueError, KeyError, TypeError: something is not there, or of another kind.
    """
    numbers = [entry.input["bytes"]]
    texts = [entry.input["digest" if entry.status == QUARANTINED else "fingerprint"], entry.reason]
    if entry.status == DONE:
        numbers += [entry.counts["pairs"], entry.counts["written"]]
        numbers += [entry.output["bytes"], entry.table["bytes"]]
        numbers += [n for what in COUNTED for n in dict(entry.counts[what]).values()]
        texts.append(entry.table["xxh3_128"])
    kinds = {type(number) for number in numbers}, {type(text) for text in texts}
    if kinds != ({int}, {str}):
        raise TypeError


def totals(entries: list[Entry]) -> dict[str, Any]:
    """Counts summed over finished shards."""
    total: dict[str, Any] = {
        "shards": len(entries),
        "quarantined_shards": sum(entry.status == QUARANTINED for entry in entries),
    }
    for what in ("pairs", "written"):
        total[what] = sum(entry.counts.get(what, 0) for entry in entries)
    for what in COUNTED:
        counts: Counter = Counter()
        for entry in entries:
            counts.update(entry.counts.get(what, {}))
        total[what] = dict(sorted(counts.items()))
    return total


def summary_of(entries: list[Entry]) -> bytes:
    """The totals as `summary.json` holds them."""
    return (json.dumps(totals(entries), indent=1) + "\n").encode()


def digest_of(path: Path) -> str:
    """xxh3_128 of a file's bytes, "" where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except OSError:
        return ""
