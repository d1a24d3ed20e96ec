"""Tar shards, written with their indexes."""

import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from engine.data.index import PICTURES, build_index, store_index


def add_members(tar: tarfile.TarFile, key: str, members: Sequence[tuple[str, bytes]]) -> None:
    """Append a sample, the same bytes for the same input: no time, no owner.

    Args:
        tar: open for writing.
        key: of the sample.
        members: suffix and content of each.
    """
    for suffix, content in members:
        member = tarfile.TarInfo(f"{key}.{suffix}")
        member.size = len(content)
        header = member.tobuf(tar.format, tar.encoding, tar.errors)
        rest = -len(content) % tarfile.BLOCKSIZE
        # As `addfile`, in one piece: that one copies its argument and writes by 16 KiB.
        tar.fileobj.write(b"".join((header, content, bytes(rest))))
        tar.offset += len(header) + len(content) + rest


class ShardWriter:
    """Writes samples into numbered shards with their indexes, the same bytes for the same input.

    A shard appears under its name only when it is whole.

    Args:
        folder: where shards go; made where needed.
        prefix: of the file names.
        samples_per_shard: samples a shard.
    """

    def __init__(self, folder: Path, prefix: str, samples_per_shard: int) -> None:
        self.folder, self.prefix, self.samples_per_shard = folder, prefix, samples_per_shard
        folder.mkdir(parents=True, exist_ok=True)
        self._tar: tarfile.TarFile | None = None
        self._count = self._shard = 0

    def add(
        self, key: str, image: bytes, extension: str, caption: str, metadata: dict[str, Any]
    ) -> None:
        """Append one sample.

        Args:
            key: name of the sample, without dots.
            image: encoded picture.
            extension: jpg, png or webp.
            caption: stored as it is, UTF-8.
            metadata: stored as JSON (uid, url, ...).

        Raises:
            ValueError: an extension or a key that no reader would accept.
        """
        if extension not in PICTURES or "." in key or not key:
            raise ValueError(f"sample {key!r} with extension {extension!r} cannot be stored")
        if self._tar is None:
            self._tar = tarfile.TarFile(self._path(".partial"), "w", format=tarfile.USTAR_FORMAT)
        facts = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
        members = ((extension, image), ("txt", _utf8(caption)), ("json", _utf8(facts)))
        add_members(self._tar, key, members)
        self._count += 1
        if self._count == self.samples_per_shard:
            self._finish_shard()

    def _path(self, ending: str = "") -> Path:
        return self.folder / f"{self.prefix}_{self._shard:05d}.tar{ending}"

    def _finish_shard(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        os.replace(self._path(".partial"), self._path())
        store_index(build_index(self._path()))
        self._tar, self._count, self._shard = None, 0, self._shard + 1

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._finish_shard()
        elif self._tar is not None:
            self._tar.close()
            self._path(".partial").unlink(missing_ok=True)


def _utf8(text: str) -> bytes:
    """Halves of characters, which JSON can hold and UTF-8 cannot, become question marks."""
    return text.encode("utf-8", "replace")
