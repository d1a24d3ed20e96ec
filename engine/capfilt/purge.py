"""Pictures taken out of a finished output: shard and table together, and the ledger knows."""

import json
import logging
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from engine.capfilt.folder import SUMMARY, OutputFolder
from engine.capfilt.identity import hash_identity, read_identity
from engine.capfilt.ledger import Ledger, digest_of, summary_of
from engine.capfilt.rule import SYNTHETIC, WEB
from engine.capfilt.table import read_stored, stored
from engine.config import ConfigError
from engine.data.index import ShardError
from engine.data.purge import Found, purge_shard
from engine.durable import write_whole
from engine.report.capfilt_report import REPORT
from engine.report.page import reports_above

log = logging.getLogger(__name__)


class CleanedSet:
    """The output of a captioning-and-filtering run.

    Args:
        root: the run's output_dir.

    Raises:
        ConfigError: a run is at work in it, or was stopped in a shard.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, OutputFolder(root)
        if self.folder.leases.is_dir() and any(self.folder.leases.iterdir()):
            raise ConfigError(
                f"{root}: a run is at work there, or was stopped: let it finish first"
            )
        self.names = sorted(path.stem for path in self.folder.table.glob("*.parquet"))

    def purge(self, name: str, uids: Collection[str], found: Found) -> int:
        """Take pictures out of a shard and their texts out of its table.

        Killed anywhere, the next purge does what is left. The report goes, and that of the loop
        which the run is a part of: they show pictures.

        Args:
            name: of the shard.
            uids: of the pictures.
            found: as `purge_shard` has it.

        Returns:
            How many were in the shard; dropped ones are in the table alone.

        Raises:
            ShardError: a shard, table or ledger that is damaged, or a shard that is elsewhere.
        """
        table = self.folder.table / f"{name}.parquet"
        shard = self.folder.shards / f"{name}.tar"
        content, here = _without(table, uids), shard.is_file()
        done = purge_shard(shard, uids, found) if here else 0
        if content is not None:
            (self.root / REPORT).unlink(missing_ok=True)
            for report in reports_above(self.root):
                report.unlink(missing_ok=True)
                log.warning("%s: deleted, as it may show what is taken out; make it again", report)
            write_whole(table, content)
        self._note(name, shard, table)
        if content is not None and not here:
            raise ShardError(
                f"{shard}: is not here, only its table, which is done; take the pictures out where "
                "it was published to"
            )
        return done

    def _note(self, name: str, shard: Path, table: Path) -> None:
        """What lies there now: a run that comes back would make it again otherwise."""
        path = self.folder.ledger / f"{name}.json"
        digest = digest_of(table)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            if entry["table"]["xxh3_128"] == digest:
                return
            bad = sum(entry["counts"]["bad"].values())
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise ShardError(f"{path}: damaged") from None
        rows = read_stored(table.read_bytes(), str(table))
        entry["table"] = {"bytes": table.stat().st_size, "xxh3_128": digest, "rows": len(rows)}
        entry["counts"] |= _counts(rows, bad)
        if shard.is_file():
            entry["output"] = {"bytes": shard.stat().st_size, "xxh3_128": digest_of(shard)}
        write_whole(path, (json.dumps(entry, indent=1) + "\n").encode())

    def add_up(self) -> None:
        """Write the summary of what is there now, if the run has written one."""
        summary = self.root / SUMMARY
        try:
            identity = read_identity(self.root, to_continue=False)
            if identity is None or not summary.is_file():
                return
            ledger = Ledger(self.folder, hash_identity(identity))
            content = summary_of(ledger.entries(ledger.finished()))
        except ConfigError:
            # Damaged, or too old to be counted: the pictures are out all the same.
            return
        if content != summary.read_bytes():
            write_whole(summary, content)


def _counts(table: pa.Table, bad: int) -> dict[str, Any]:
    """What the ledger counts of a table, beside `bad` pictures that are in none."""
    rows = table.select(["key", "source", "reason", "kept"]).to_pylist()
    counts: dict[str, Any] = {
        "pairs": len({row["key"] for row in rows}) + bad,
        "written": len({row["key"] for row in rows if row["kept"]}),
    }
    for source in (WEB, SYNTHETIC):
        reasons = Counter(row["reason"] for row in rows if row["source"] == source)
        counts[source] = dict(sorted(reasons.items()))
    return counts


def _without(path: Path, uids: Collection[str]) -> bytes | None:
    """A table without the rows of some pictures; None where it has none of them."""
    try:
        table = read_stored(path.read_bytes(), str(path))
    except ConfigError as error:
        raise ShardError(str(error)) from None
    theirs = pc.is_in(table["uid"], value_set=pa.array(sorted(uids), pa.string()))
    return stored(table.filter(pc.invert(theirs))) if pc.any(theirs).as_py() else None
