"""A collection's folder: its settings, what is finished, and what is in work.

A shard is finished when its table has its name: the shard and its index got theirs before.
"""

import contextlib
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from engine.collect.web.look import BYTES
from engine.config import ConfigError
from engine.data.index import build_index, index_path, open_index, store_index
from engine.data.purge import noted
from engine.data.shard_writer import add_members
from engine.data.tar_members import ShardError
from engine.durable import sync, write_whole
from engine.folder_lock import open_lock, try_lock

SETTINGS, SUMMARY = "settings.json", "summary.json"
SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("uid", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("key", pa.string()),
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("status", pa.int16()),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("redirects", pa.int32(), nullable=False),
        pa.field("tries", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        # Of a copy: the row of the picture that it is one of.
        pa.field("copy_of", pa.int64()),
        pa.field("look", pa.binary(BYTES)),
    ]
)
Members = tuple[str, list[tuple[str, bytes]]]


class CollectionFolder:
    """Where a collection lies.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tables, self.work = root / "table", root / "work"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder, alone.

        Raises:
            ConfigError: another process holds it, or it cannot be written.
        """
        with open_lock(self.root) as lock:
            if not try_lock(lock):
                raise ConfigError(f"{self.root}: another run is writing here")
            yield

    def refuse_foreign(self) -> None:
        """Only a collection, or nothing, may be there.

        Raises:
            ConfigError: something else is.
        """
        if self.root.is_dir() and not (self.root / SETTINGS).exists():
            others = sorted(p.name for p in self.root.iterdir() if not p.name.startswith("."))
            if others:
                raise ConfigError(
                    f"output_dir {self.root} holds {others[0]} but no {SETTINGS} of a collection: "
                    "choose another folder"
                )

    def begin(self, settings: dict[str, Any]) -> None:
        """Note the settings of a new collection, or compare with those of the one that is there.

        Raises:
            ConfigError: others, naming the first that differs.
        """
        path = self.root / SETTINGS
        if path.exists():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
                differing = list(_differences(stored, settings))
            except (OSError, ValueError, AttributeError):
                raise ConfigError(f"{path}: not readable settings of a collection") from None
            if differing:
                raise ConfigError(
                    f"{self.root} holds a collection with {differing[0]}: choose another "
                    "output_dir, or give the settings and lists that it was begun with"
                )
        for folder in (self.tables, self.work):
            folder.mkdir(exist_ok=True)
        # Of a process that was killed in the middle of a file.
        for left in (*self.work.glob("*.partial"), *self.root.glob(".*.index.*")):
            left.unlink()
        for left in self.root.rglob(".*.partial"):
            left.unlink()
        for left in self.work.glob("*.journal"):
            if self.finished(int(left.stem)):
                left.unlink()
        if not path.exists():
            write_whole(path, (json.dumps(settings, indent=1) + "\n").encode())

    def shard(self, number: int) -> Path:
        """The tar file of a shard."""
        return self.root / f"{number:05d}.tar"

    def table(self, number: int) -> Path:
        """The table of a shard."""
        return self.tables / f"{number:05d}.parquet"

    def journal(self, number: int) -> Path:
        """What is known of a shard in work."""
        return self.work / f"{number:05d}.journal"

    def finished(self, number: int) -> bool:
        """Whether a shard is."""
        return self.table(number).exists()

    def finish(self, number: int, samples: Iterable[Members], rows: list[dict[str, Any]]) -> None:
        """Write a shard, its index and then its table; the same bytes for the same input.

        Args:
            number: of the shard.
            samples: that it holds; none of them make no shard. They are taken before `rows` is
                looked at.
            rows: of its table.
        """
        partial = self.work / f"{number:05d}.partial"
        count = 0
        with tarfile.TarFile(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, members in samples:
                add_members(tar, key, members)
                count += 1
        if count:
            sync(partial)
            os.replace(partial, self.shard(number))
            store_index(build_index(self.shard(number)))
            sync(index_path(self.shard(number)))
            sync(self.root)
        else:
            # One of an earlier try, whose table did not come to be, would not go with this one's.
            for path in (partial, index_path(self.shard(number)), self.shard(number)):
                path.unlink(missing_ok=True)
        self.write_table(number, rows)
        self.journal(number).unlink(missing_ok=True)

    def write_table(self, number: int, rows: list[dict[str, Any]]) -> None:
        """Write the table of a shard."""
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(rows, SCHEMA)
        pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
        write_whole(self.table(number), sink.getvalue().to_pybytes())

    def read_table(self, number: int, columns: list[str] | None = None) -> pa.Table:
        """The table of a finished shard.

        Raises:
            ConfigError: damaged, or the shard is gone.
        """
        path = self.table(number)
        try:
            return pq.read_table(path, columns=columns, page_checksum_verification=True)
        except (OSError, ValueError, pa.ArrowException):
            problem = "not a readable table; delete it and its shard to fetch them again"
            raise ConfigError(f"{path}: {problem}") from None

    def check_shard(self, number: int, least: int, most: int) -> None:
        """Whether a finished shard is there, with all that its table says it keeps.

        Args:
            number: of the shard.
            least: samples that it holds.
            most: the same with those that are to be purged: a purge may have been stopped.

        Raises:
            ConfigError: it is not.
        """
        problem = None
        try:
            held = len(open_index(self.shard(number))) if most else 0
            if not least <= held <= most:
                problem = f"{self.shard(number)}: holds {held} samples, not {most}"
        except ShardError as error:
            problem = str(error)
        if problem:
            again = f"delete {self.table(number)} to have its rows fetched again"
            raise ConfigError(f"{problem}; bring it back, or {again}")

    def purged(self) -> frozenset[str]:
        """Uids that were taken out."""
        return frozenset(one["uid"] for one in noted(self.root))


def _differences(one: dict[str, Any], other: dict[str, Any], at: str = "") -> Iterator[str]:
    for key in sorted(one.keys() | other.keys()):
        mine, its = one.get(key), other.get(key)
        if isinstance(mine, dict) and isinstance(its, dict):
            yield from _differences(mine, its, f"{at}{key}.")
        elif mine != its and key == "fingerprint":
            yield "other lists, or lists that changed since"
        elif mine != its:
            yield f"{at}{key} {mine!r}, not {its!r}"
