"""Pictures taken out of a finished output: shard and table together, and the ledger knows."""

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
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
from engine.data.index import ShardError, open_index
from engine.data.purge import Found, by_url, purge_shard, purged_since
from engine.durable import write_whole
from engine.report.capfilt_report import REPORT
from engine.report.page import reports_above

log = logging.getLogger(__name__)


class CleanedSet:
    """The output of a captioning-and-filtering run.

    Args:
        root: the run's output_dir.

    Attributes:
        names: of its shards.
        met: uids that tables had, of those that were asked for.

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
        self.met: set[str] = set()

    def purge(
        self, name: str, names: Collection[str], sources: Iterable[Path], found: Found
    ) -> int:
        """Take pictures out of a shard and their texts out of its table.

        Killed anywhere, the next purge does what is left. The report goes, and that of the loop
        which the run is a part of: they show pictures.

        Args:
            name: of the shard.
            names: uids of the pictures, or URLs.
            sources: shards it may have been made from: they tell the URLs of dropped pictures.
            found: as `purge_shard` has it.

        Returns:
            How many were in the shard; dropped ones are in the table alone.

        Raises:
            ShardError: a shard, table or ledger that is damaged, or a shard that is elsewhere.
        """
        table = self.folder.table / f"{name}.parquet"
        shard = self.folder.shards / f"{name}.tar"
        here = shard.is_file()
        uids = {*names}.union(*self._by_url(name, [*([shard] if here else []), *sources], names))
        content, gone = _without(table, uids)
        self.met |= gone
        # The table first: without the shard nobody could tell a URL's uid.
        if content is not None:
            own = self.root / REPORT
            for report in [*([own] if own.is_file() else []), *reports_above(self.root)]:
                report.unlink(missing_ok=True)
                log.warning(
                    "%s: deleted, as it may show what is taken out; python launch/report.py --run "
                    "%s makes it again",
                    report,
                    report.parent,
                )
            write_whole(table, content)
        done = purge_shard(shard, uids, found) if here else 0
        self._note(name, shard, table)
        if content is not None and not here:
            raise ShardError(
                f"{shard}: is not here, only its table, which is done; take the pictures out where "
                "it was published to"
            )
        return done

    def _by_url(
        self, name: str, shards: Iterable[Path], names: Collection[str]
    ) -> Iterator[set[str]]:
        """The uids of URLs in a shard of it, and in the one that was made from."""
        for shard in shards:
            found = by_url(shard, names) if shard.stem == name else {}
            if found and (shard.parent == self.folder.shards or self._is_of(name, shard)):
                yield {uid for uid, _ in found.values()}

    def _is_of(self, name: str, source: Path) -> bool:
        """Whether a shard was made from another: uids that are keys mean nothing elsewhere."""
        with suppress(OSError, ValueError, TypeError, KeyError, ConfigError):
            entry = json.loads((self.folder.ledger / f"{name}.json").read_text(encoding="utf-8"))
            now, then = open_index(source).fingerprint, entry["input"]["fingerprint"]
            return purged_since(source, now, then) is not None
        return False

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


def _without(path: Path, uids: Collection[str]) -> tuple[bytes | None, set[str]]:
    """A table without the rows of some pictures, None where it has none of them; whose it had."""
    try:
        table = read_stored(path.read_bytes(), str(path))
    except ConfigError as error:
        raise ShardError(str(error)) from None
    theirs = pc.is_in(table["uid"], value_set=pa.array(sorted(uids), pa.string()))
    gone = set(table["uid"].filter(theirs).to_pylist())
    return stored(table.filter(pc.invert(theirs))) if gone else None, gone
