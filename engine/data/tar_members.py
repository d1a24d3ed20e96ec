"""The members of a tar file, by a walk over its 512-byte headers that leaves none out silently."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from engine.config import ConfigError

BLOCK = 512
REGULAR, LINKS, FOLDER, SPARSE = (b"0", b"\0", b"7"), (b"1", b"2"), b"5", b"S"
# No bytes follow their headers, whatever size these state (as in Python's tarfile).
WITHOUT_CONTENT = (*LINKS, b"3", b"4", FOLDER, b"6")
# Long names of links' targets, settings and a label of the whole file: no members.
ABOUT = (b"K", b"g", b"V")
GZIP = b"\x1f\x8b"


class ShardError(ConfigError):
    """A shard that is not what its index says, or not a tar file."""


@dataclass(frozen=True)
class Member:
    """One file in a tar.

    Attributes:
        name: as it stands there; bytes that are no UTF-8 as `\\xNN`, so that no two become one.
        offset: of its content.
        size: of its content, in bytes.
        problem: why it is never read as a part of a sample, or "": `unsafe_name` (absolute, or one
            that climbs out), `link`, `special_file`, `sparse_file`.
    """

    name: str
    offset: int
    size: int
    problem: str


def key_of(name: str) -> tuple[str, str]:
    """`folder/key.suffix` -> `folder/key`, `suffix`."""
    folder, slash, last = name.rpartition("/")
    key, _, suffix = last.partition(".")
    return f"{folder}{slash}{key}", suffix


def members(file: BinaryIO, shard: Path) -> Iterator[Member]:
    """Yield every member that is no folder; unlike tarfile, never end silently.

    Raises:
        ShardError: no tar, a damaged header, or an end that is missing.
    """
    end = file.seek(0, os.SEEK_END)
    position, long_name, sparse = 0, None, False
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if header == bytes(BLOCK):
            if end - position >= BLOCK:
                return
            header = b""
        if len(header) < BLOCK:
            raise ShardError(f"{shard}: truncated at byte {position} of {end}")
        stated = header[148:156].strip(b" \0")
        counted = sum(header[:148]) + 8 * 32 + sum(header[156:])
        if not stated or _octal(stated) != counted:
            what = "damaged header" if position else "not a tar file, or a damaged header"
            if header.startswith(GZIP) and not position:
                raise ShardError(f"{shard}: compressed with gzip: gunzip it, it is read anywhere")
            raise ShardError(f"{shard}: {what} at byte {position}")
        kind = header[156:157]
        size = 0 if kind in WITHOUT_CONTENT else _size(header[124:136])
        start = position + BLOCK + (_more_map(file, header) if kind == SPARSE else 0)
        if size < 0 or start + size > end:
            raise ShardError(f"{shard}: member at byte {position} reaches beyond the end")
        if kind in (b"L", b"x"):
            long_name, sparse = _long_name(file, start, size, kind)
        elif kind not in ABOUT:
            name = (long_name or _name(header)).removeprefix("./")
            problem = _problem(kind, name, sparse)
            long_name, sparse = None, False
            if kind != FOLDER and not name.endswith("/"):
                yield Member(name, start, size, problem)
        position = start + -(-size // BLOCK) * BLOCK


def _problem(kind: bytes, name: str, sparse: bool) -> str:
    if kind in LINKS:
        return "link"
    if sparse or kind == SPARSE:
        return "sparse_file"
    if kind not in REGULAR:
        return "special_file"
    return "unsafe_name" if name.startswith("/") or ".." in name.split("/") else ""


def _octal(field: bytes) -> int:
    try:
        return int(field, 8)
    except ValueError:
        return -1


def _size(field: bytes) -> int:
    if field[0] & 0x80:
        return struct.unpack(">Q", field[4:12])[0]
    return _octal(field.strip(b" \0") or b"0")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _name(header: bytes) -> str:
    name = header[:100].rstrip(b"\0")
    prefix = header[345:500].rstrip(b"\0") if header[257:262] == b"ustar" else b""
    if header[257:265] == b"ustar  \0":
        prefix = b""
    return _text(prefix + b"/" + name if prefix else name)


def _long_name(file: BinaryIO, start: int, size: int, kind: bytes) -> tuple[str | None, bool]:
    """The name that the next member has, None where nothing is said of it; whether it is sparse."""
    file.seek(start)
    content = file.read(min(size, 1 << 16))
    if kind == b"L":
        return _text(content.rstrip(b"\0")), False
    facts = dict(line.partition(b" ")[2].partition(b"=")[::2] for line in content.split(b"\n"))
    name = facts.get(b"GNU.sparse.name", facts.get(b"path"))
    sparse = any(fact.startswith(b"GNU.sparse.") for fact in facts)
    return None if name is None else _text(name), sparse


def _more_map(file: BinaryIO, header: bytes) -> int:
    """Bytes of the blocks in which GNU's old format goes on with the map of a sparse file."""
    more, count = header[482], 0
    while more and len(block := file.read(BLOCK)) == BLOCK:
        more, count = block[504], count + 1
    return count * BLOCK
