"""The output folder: where everything lies, and files that are whole or not there at all."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from engine.checkpoint import FULL
from engine.config import ConfigError
from engine.durable import sync

IDENTITY, SETTINGS, SUMMARY = "run.json", "config.yaml", "summary.json"
PARTS = ("shards", "table", "ledger", "quarantine")
# Texts are added to a shard, at the very most some kilobytes a picture; most shrink.
MORE = 1.1


class OutputFolder:
    """Paths of a captioning-and-filtering run.

    Args:
        root: the run's output_dir.

    Attributes:
        shards: cleaned tar shards with their indexes.
        table: a Parquet file a shard, a row a candidate text.
        ledger: a JSON file a finished shard.
        quarantine: JSON lines of what could not be used, a file a shard that has any.
        leases: of the shards in work.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shards, self.table, self.ledger, self.quarantine = (root / part for part in PARTS)
        self.leases, self._work = root / ".work" / "leases", root / ".work"

    def make(self) -> None:
        """Make what is missing of it.

        Raises:
            ConfigError: it is a file, or cannot be written.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ConfigError(f"output_dir {self.root} is a file")
        try:
            # First what tells others that starts at the same time that this is a run's folder.
            for part in (".work/leases", *PARTS):
                (self.root / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"output_dir {self.root}: {error.filename} cannot be made: {error.strerror}"
            ) from None

    @contextlib.contextmanager
    def desk(self, name: str) -> Iterator[Path]:
        """A folder to build the files of a shard in; gone when the context ends.

        What dead processes left of the same shard is removed. One that lost its lease and does
        not know yet finds its files missing.

        Raises:
            ConfigError: the disk is full.
        """
        for left in self._work.glob(f"{_escape(name)}@*.tmp"):
            # Not that of `name@2`.
            if left.name.rpartition("@")[0] == name:
                shutil.rmtree(left, ignore_errors=True)
        folder = self._work / f"{name}@{uuid.uuid4().hex}.tmp"
        try:
            folder.mkdir()
            yield folder
        except OSError as error:
            if error.errno in FULL:
                raise ConfigError(self._full(name, FULL[error.errno])) from None
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def require_space(self, name: str, needed: int) -> None:
        """Refuse to begin what cannot be finished.

        Args:
            name: of the shard.
            needed: bytes.

        Raises:
            ConfigError: less is free.
        """
        free = shutil.disk_usage(self.root).free
        if free < needed:
            problem = self._full(name, FULL[errno.ENOSPC])
            raise ConfigError(f"{problem} (it needs about {needed / 1e6:.1f} MB)")

    def _full(self, name: str, what: str) -> str:
        free = shutil.disk_usage(self.root).free
        return (
            f"output_dir {self.root}: {what} ({free / 1e6:.1f} MB free) while making "
            f"shard {name}; what is finished is saved: make room and start again"
        )

    def clear(self, names: set[str]) -> None:
        """Remove what dead processes left of shards that are finished."""
        for folder in (self._work, self.leases):
            for left in folder.glob("*@*"):
                if left.name.rpartition("@")[0] not in names:
                    continue
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)


def room_for(size: int) -> int:
    """Bytes that the output of a shard of so many takes at most."""
    return int(size * MORE) + (1 << 20)


def _escape(name: str) -> str:
    """A name as a pattern that only it fits."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def write_file(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def put(source: Path, target: Path) -> None:
    """Move a finished file to its place, durably."""
    os.replace(source, target)
    sync(target.parent)


def size_on_disk(path: Path) -> int | None:
    """Bytes of a file, None where there is none."""
    return path.stat().st_size if path.is_file() else None
