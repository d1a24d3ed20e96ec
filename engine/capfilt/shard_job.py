"""One shard: from its file to the files that are to be put in place."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from engine.capfilt.candidates import Candidates, ShardTexts, Tick
from engine.capfilt.cleaned import write_cleaned
from engine.capfilt.config import RuleSection
from engine.capfilt.folder import OutputFolder, put, room_for, size_on_disk, write_file
from engine.capfilt.inputs import InputShard, RemoteShard
from engine.capfilt.ledger import DONE, QUARANTINED, Entry, Ledger, digest_of
from engine.capfilt.pictures import Bad
from engine.capfilt.publish import Publisher
from engine.capfilt.rule import SYNTHETIC, WEB
from engine.capfilt.table import Judged, judge_all, to_bytes
from engine.data.index import ShardError, index_path, open_index
from engine.data.picture_files import bounded
from engine.data.purge import purged_since
from engine.data.shards import Shards
from engine.data.tar_members import RefusedError
from engine.durable import sync


@dataclass(frozen=True)
class ScoredShard:
    """A shard whose texts are scored.

    Attributes:
        name: of the shard.
        path: of its file.
        shards: the same, opened; None where it cannot be read.
        texts: of its pictures; None there too.
        problem: why it cannot be read, or None.
    """

    name: str
    path: Path
    shards: Shards | None = None
    texts: ShardTexts | None = None
    problem: ShardError | None = None


@dataclass(frozen=True)
class Draft:
    """A shard that is made but not in place.

    Attributes:
        name: of the shard.
        entry: for the ledger.
        files: what goes where, in this order.
    """

    name: str
    entry: Entry
    files: list[tuple[Path, Path]]


class ShardJob:
    """Makes shards.

    Args:
        folder: the output.
        ledger: of the output.
        candidates: gives the scored texts of a shard.
        rule: which of them stay.
        publisher: takes what is finished; cleaned shards then lie only there.
    """

    def __init__(
        self,
        folder: OutputFolder,
        ledger: Ledger,
        candidates: Candidates,
        rule: RuleSection,
        publisher: Publisher | None,
    ) -> None:
        self.folder, self.ledger = folder, ledger
        self.candidates, self.rule, self.publisher = candidates, rule, publisher

    def score(self, name: str, shard: Path, tick: Tick) -> ScoredShard:
        """Score a shard's texts.

        Args:
            name: of the shard.
            shard: input.
            tick: called after each batch.
        """
        try:
            shards = Shards([shard])
            return ScoredShard(name, shard, shards, self.candidates(name, shards, tick))
        except ShardError as error:
            return ScoredShard(name, shard, problem=error)

    def draft(self, scored: ScoredShard, desk: Path) -> Draft:
        """Make a shard's files on a desk; a shard that cannot be read is quarantined.

        Args:
            scored: the shard.
            desk: folder for the files.

        Raises:
            ConfigError: not enough room.
            OSError: the disk refuses.
        """
        name, shard, shards, texts = scored.name, scored.path, scored.shards, scored.texts
        if scored.problem is not None or shards is None or texts is None:
            return self._quarantined(name, shard, desk, scored.problem)
        try:
            size = _size(shard)
            self.folder.require_space(name, room_for(size))
            judged = judge_all(texts.pictures, self.rule)
            tar = desk / f"{name}.tar"
            written = write_cleaned(tar, shards, judged)
        except ShardError as error:
            return self._quarantined(name, shard, desk, error)
        for path in (tar, index_path(tar)):
            sync(path)
        table = to_bytes(judged)
        write_file(desk / f"{name}.parquet", table)
        files = [(tar, self.folder.shards), (index_path(tar), self.folder.shards)]
        files.append((desk / f"{name}.parquet", self.folder.table))
        files += self._quarantine(name, desk, texts.bad)
        entry = Entry(
            status=DONE,
            run=self.ledger.run,
            input={
                "file": shard.name,
                "bytes": size,
                "fingerprint": shards.index(0).fingerprint,
            },
            output={"bytes": tar.stat().st_size, "xxh3_128": digest_of(tar)},
            table={
                "bytes": len(table),
                "xxh3_128": xxhash.xxh3_128_hexdigest(table),
                "rows": sum(len(picture.reasons) for picture in judged),
            },
            counts=_counts(written, judged, texts.bad),
        )
        return self._draft(name, entry, desk, files)

    def send(self, draft: Draft) -> None:
        """Copy the files to where finished ones go, the ledger's last.

        Raises:
            TransferError: one could not be written.
        """
        if self.publisher:
            if not self._quarantines(draft):
                self.publisher.remove(self.folder.quarantine / f"{draft.name}.jsonl")
            self.publisher.send(draft.files)

    def publish(self, draft: Draft) -> None:
        """Put the files in place, the ledger's last: whoever sees it sees a finished shard."""
        if not self._quarantines(draft):
            (self.folder.quarantine / f"{draft.name}.jsonl").unlink(missing_ok=True)
        for source, target in draft.files:
            if self.publisher is None or target.parent != self.folder.shards:
                put(source, target)

    def _quarantines(self, draft: Draft) -> bool:
        return any(target.parent == self.folder.quarantine for _, target in draft.files)

    def look_over(self, name: str, shard: InputShard) -> str | None:
        """Look at a finished shard when a run starts; what must be made again is forgotten.

        That is a shard whose files are missing or of another size, or one in quarantine that was
        repaired meanwhile. Of a shard that is named by URL the size is looked at, no more.

        Returns:
            Why the run must not go on, or None.
        """
        entry = self.ledger.read(name)
        if entry.status == QUARANTINED:
            if isinstance(shard, RemoteShard):
                same = shard.size() == entry.input["bytes"]
            else:
                same = entry.input["digest"] and entry.input["digest"] == _digest(shard)
            if not same:
                self.ledger.forget(name)
            return None
        try:
            if isinstance(shard, RemoteShard):
                same = shard.size() in (None, entry.input["bytes"])
            else:
                now = open_index(shard).fingerprint
                same = purged_since(shard, now, entry.input["fingerprint"]) is not None
        except ShardError as error:
            return f"it was finished, but {error}"
        if not same:
            return f"{shard} is not what it was when it was finished, and no purge made it so"
        cleaned = self.folder.shards / f"{name}.tar"
        found = self.publisher.size(cleaned) if self.publisher else size_on_disk(cleaned)
        table = size_on_disk(self.folder.table / f"{name}.parquet")
        if (found, table) != (entry.output["bytes"], entry.table["bytes"]):
            self.ledger.forget(name)
        return None

    def _quarantined(self, name: str, shard: Path, desk: Path, problem: ShardError | None) -> Draft:
        # Wherever it lies: paths are those of a machine, folders of fetched shards of this hour.
        reason = str(problem).replace(str(shard), shard.name)
        size = shard.stat().st_size if shard.exists() else 0
        # Without a digest the next start tries again.
        digest = "" if isinstance(problem, RefusedError) else _digest(shard)
        facts = {"file": shard.name, "bytes": size, "digest": digest}
        entry = Entry(status=QUARANTINED, run=self.ledger.run, input=facts, reason=reason)
        row = {"shard": name, "reason": reason}
        return self._draft(name, entry, desk, self._lines(name, desk, [row]))

    def _quarantine(self, name: str, desk: Path, bad: list[Bad]) -> list[tuple[Path, Path]]:
        rows = [
            {"shard": name, "key": bounded(b.key), "uid": bounded(b.uid), "reason": b.reason}
            for b in bad
        ]
        return self._lines(name, desk, rows) if rows else []

    def _lines(self, name: str, desk: Path, rows: list[dict[str, Any]]) -> list[tuple[Path, Path]]:
        path = desk / f"{name}.jsonl"
        write_file(path, "".join(f"{json.dumps(row)}\n" for row in rows).encode())
        return [(path, self.folder.quarantine)]

    def _draft(self, name: str, entry: Entry, desk: Path, files: list[tuple[Path, Path]]) -> Draft:
        path = desk / f"{name}.json"
        write_file(path, entry.to_bytes())
        targets = [(source, folder / source.name) for source, folder in files]
        return Draft(name, entry, [*targets, (path, self.ledger.path(name))])


def _size(shard: Path) -> int:
    try:
        return shard.stat().st_size
    except OSError as error:
        raise RefusedError(f"{shard}: {error.strerror}") from None


def _digest(shard: Path) -> str:
    """Of the file and its index: one of them must change before it is worth another try."""
    whole = digest_of(shard)
    return whole and whole + digest_of(index_path(shard))


def _counts(written: int, judged: list[Judged], bad: list[Bad]) -> dict[str, Any]:
    texts = {source: Counter() for source in (WEB, SYNTHETIC)}
    for picture in judged:
        for one, reason in zip(picture.scored.candidates, picture.reasons, strict=True):
            texts[one.source][reason] += 1
    return {
        "pairs": len(judged) + len(bad),
        "written": written,
        "web": dict(sorted(texts[WEB].items())),
        "synthetic": dict(sorted(texts[SYNTHETIC].items())),
        "bad": dict(sorted(Counter(one.reason for one in bad).items())),
    }
