"""The members of a tar file, by a walk over its 512-byte headers that leaves none out silently."""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from engine.config import ConfigError

BLOCK = 512
REGULAR, LINKS, FOLDER, SPARSE = (b"0", b"\0", b"7"), (b"1", b"2"), b"5", b"S"
# No bytes follow their headers, whatever size these state (as in Python's tarfile).
WITHOUT_CONTENT = (*LINKS, b"3", b"4", FOLDER, b"6")
# What stands before a member and is none: its long name, and its settings, pax's or Solaris'.
LONG_NAME, SETTINGS, COMMON = b"L", (b"x", b"X"), b"g"
# The long name of a link's target, and a label of the whole file: no members either.
ABOUT = (b"K", b"V")
# So long settings and names are believed; a file system has names of 4096 bytes.
MAX_SETTINGS, MAX_NAME, MAX_DIGITS = 1 << 20, 1 << 16, 20
SPARSE_FACT = b"GNU.sparse."
# Bytes behind the end that are looked at together.
PADDING = 1 << 20
GZIP = b"\x1f\x8b"


class ShardError(ConfigError):
    """A shard that is not what its index says, or not a tar file."""


class RefusedError(ShardError):
    """A shard that the system did not give; another time it may."""


@dataclass(frozen=True)
class Member:
    """One file in a tar.

    Attributes:
        name: as it stands there; bytes that are no UTF-8 as `\\xNN`, so that no two become one.
        offset: of its content.
        size: of its content, in bytes.
        problem: why it is never read as a part of a sample, or "": `unsafe_name` (absolute, or one
            that climbs out), `link`, `special_file`, `sparse_file`, `bad_header` (its name is not
            told, is told twice, or for every member alike; `name` is the short one).
    """

    name: str
    offset: int
    size: int
    problem: str


@dataclass(frozen=True)
class Told:
    """What the headers before a member tell of it.

    Attributes:
        name: of the member, or None.
        size: of its content where the member's own header has no room for it, or None.
        sparse: whether holes are left out of the content.
        bad: whether one of the headers cannot be believed.
    """

    name: str | None = None
    size: int | None = None
    sparse: bool = False
    bad: bool = False


def key_of(name: str) -> tuple[str, str]:
    """`folder/key.suffix` -> `folder/key`, `suffix`."""
    folder, slash, last = name.rpartition("/")
    key, _, suffix = last.partition(".")
    return f"{folder}{slash}{key}", suffix


def members(file: BinaryIO, shard: Path) -> Iterator[Member]:
    """Yield every member that is no folder; unlike tarfile, never end silently.

    Raises:
        ShardError: no tar, a damaged header, an end that is missing, or anything behind the end.
    """
    end = file.seek(0, os.SEEK_END)
    position, told, common = 0, Told(), False
    while True:
        file.seek(position)
        header = file.read(BLOCK)
        if header == bytes(BLOCK):
            if end - position >= BLOCK:
                _refuse_more(file, position, shard)
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
        before = kind in (LONG_NAME, *SETTINGS, COMMON, *ABOUT)
        size = 0 if kind in WITHOUT_CONTENT else _size(header[124:136])
        if told.size is not None and not before and kind not in WITHOUT_CONTENT:
            size = told.size
        start = position + BLOCK + (_more_map(file, header) if kind == SPARSE else 0)
        if size < 0 or start + size > end:
            raise ShardError(f"{shard}: member at byte {position} reaches beyond the end")
        if kind in (LONG_NAME, *SETTINGS):
            told = _told(told, file, start, size, kind)
        elif kind == COMMON:
            # Comments, as git leaves them, are none. A name of all members is nobody's.
            common = common or _told(Told(), file, start, size, kind) != Told()
        elif not before:
            bad = told.bad or common
            name = ((not bad and told.name) or _name(header)).removeprefix("./")
            problem = _problem(kind, name, told.sparse, bad)
            told = Told()
            if kind != FOLDER and (bad or not name.endswith("/")):
                yield Member(name, start, size, problem)
        position = start + -(-size // BLOCK) * BLOCK


def _refuse_more(file: BinaryIO, end: int, shard: Path) -> None:
    """Behind the end of a tar file stand zeros alone."""
    position = file.seek(end)
    while part := file.read(PADDING):
        if any(part):
            at = position + len(part) - len(part.lstrip(b"\0"))
            raise ShardError(
                f"{shard}: it ends at byte {end}, and more stands at byte {at}: of several tar "
                "files in one the first alone is read; unpack it (tar --ignore-zeros -xf) and pack "
                "it anew"
            )
        position += len(part)


def _problem(kind: bytes, name: str, sparse: bool, bad: bool) -> str:
    if kind in LINKS:
        return "link"
    if sparse or kind == SPARSE:
        return "sparse_file"
    if kind not in REGULAR:
        return "special_file"
    if bad:
        return "bad_header"
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
    return name.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    if header[257:262] != b"ustar" or header[257:265] == b"ustar  \0":
        prefix = ""
    return f"{prefix}/{name}" if prefix else name


def _told(before: Told, file: BinaryIO, start: int, size: int, kind: bytes) -> Told:
    """What a header tells, besides what the ones before it did."""
    if size > MAX_SETTINGS:
        return replace(before, bad=True)
    file.seek(start)
    content = file.read(size)
    facts = {b"path": content.partition(b"\0")[0]} if kind == LONG_NAME else _records(content)
    if facts is None:
        return replace(before, bad=True)
    name = facts.get(b"GNU.sparse.name") or facts.get(b"path") or b""
    length = facts.get(b"size") or b""
    told = replace(before, sparse=before.sparse or any(f.startswith(SPARSE_FACT) for f in facts))
    if name:
        wrong = len(name) > MAX_NAME or b"\0" in name or before.name not in (None, _text(name))
        told = replace(told, name=_text(name), bad=told.bad or wrong)
    if length:
        right = length.isdigit() and len(length) < MAX_DIGITS
        told = replace(told, size=int(length) if right else None, bad=told.bad or not right)
    return told


def _records(content: bytes) -> dict[bytes, bytes] | None:
    """`LENGTH KEY=VALUE` lines of pax (POSIX.1-2001, pax, "pax Header Block"), each of so many
    bytes, the length itself and the line's end counted; None where they are not."""
    facts, begin = {}, 0
    while begin < len(content) and content[begin]:
        length, space, _ = content[begin : begin + MAX_DIGITS].partition(b" ")
        end = begin + int(length) if space and length.isdigit() else 0
        key, equals, value = content[begin + len(length) + 1 : end].partition(b"=")
        if end > len(content) or not key or not equals or value[-1:] != b"\n":
            return None
        facts[key], begin = value[:-1], end
    return facts


def _more_map(file: BinaryIO, header: bytes) -> int:
    """Bytes of the blocks in which GNU's old format goes on with the map of a sparse file."""
    more, count = header[482], 0
    while more and len(block := file.read(BLOCK)) == BLOCK:
        more, count = block[504], count + 1
    return count * BLOCK
