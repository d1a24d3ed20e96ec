"""Shards in good order: an index beside each of them, and every byte compared with it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from engine.config import ConfigError
from engine.data.index import (
    MEMBERS,
    ShardError,
    ShardIndex,
    build_index,
    index_path,
    read_index,
    store_index,
)
from engine.data.kept_texts import SHARDS, is_cleaned
from engine.data.open_source import named_paths
from engine.data.picture_files import first_of, printable

SUFFIX, INDEX_SUFFIX = ".tar", ".tar.index"
SECONDS_BETWEEN_LINES = 5.0
# Of what is never read in a shard, so many are named, by so many characters each.
NAMED, LONGEST = 20, 100


class NotIndexedError(ShardError):
    """A shard without an index to compare it with."""


@dataclass(frozen=True)
class Packed:
    """What was gone through.

    Attributes:
        shards: how many.
        samples: in them.
        size: of them, in bytes.
        unread: what is in them besides and is never read.
    """

    shards: int
    samples: int
    size: int
    unread: int


def index_shards(places: Sequence[str], progress: Callable[[str], None] = print) -> Packed:
    """Build the index of every shard that has none; one that is there is never written over.

    Args:
        places: shards, folders of them, globs, `{00000..00009}` ranges.
        progress: takes a line every few seconds, and one about what is never read in a shard.

    Raises:
        ConfigError: no shard there.
        ShardError: names every shard that could not be indexed, after all others were.
    """
    return _each(shards_of(places), _index, "not indexed", progress)


def verify_shards(places: Sequence[str], progress: Callable[[str], None] = print) -> Packed:
    """Read every byte of every shard again and compare with its index.

    Args:
        places: shards, folders of them, globs, `{00000..00009}` ranges.
        progress: takes a line every few seconds, and one about what is never read in a shard.

    Raises:
        ConfigError: no shard there.
        ShardError: names every shard and sample that is damaged or missing, after all were read,
            and shards without an index.
    """
    return _each(shards_of(places), _verify, "not whole", progress)


def shards_of(places: Sequence[str]) -> list[Path]:
    """Shards that are meant, each once. One of which only the index is left is among them.

    Raises:
        ConfigError: a folder without shards, a glob without files, or a file that is no shard.
    """
    found: list[Path] = []
    for path in (path for place in places for path in named_paths(place)):
        if path.is_dir():
            inside = {_shard(file) for file in path.glob("*.tar*") if _shard(file)}
            if not inside:
                there = f"; cleaned ones are in {path / SHARDS}" if is_cleaned(path) else ""
                raise ConfigError(f"{path}: no .tar shard in this folder{there}")
            found += sorted(shard for shard in inside if shard)
        elif shard := _shard(path):
            found.append(shard)
        else:
            problem = "no such file or folder"
            if path.exists():
                problem = "not a .tar shard: launch/pack.py convert makes shards of a list"
            raise ConfigError(f"{path}: {problem}")
    return list(dict.fromkeys(found))


def _shard(path: Path) -> Path | None:
    """The shard that a file is, or is the index of."""
    if path.name.startswith("."):
        return None
    if path.name.endswith(INDEX_SUFFIX):
        return path.with_suffix("")
    return path if path.suffix == SUFFIX else None


def _each(
    shards: list[Path],
    work: Callable[[Path], ShardIndex],
    verdict: str,
    progress: Callable[[str], None],
) -> Packed:
    samples, size, unread, shown = 0, 0, 0, time.monotonic()
    problems: list[str] = []
    bare: list[Path] = []
    for number, shard in enumerate(shards, 1):
        try:
            index = work(shard)
            samples, unread = samples + len(index), unread + len(index.unread)
            if index.unread:
                progress(f"{shard}: {unread_of([index])}")
            size += shard.stat().st_size
        except NotIndexedError:
            bare.append(shard)
        except ShardError as error:
            problems.append(str(error))
        # Not after the last: the caller sums up.
        if number < len(shards) and time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            progress(f"{number} of {len(shards)} shards, {len(problems)} {verdict}")
    lines = []
    if problems:
        some = f"{len(problems)} of {len(shards)} shards"
        lines.append(f"{some} {verdict}: {'; '.join(problems)}")
    if bare:
        lines.append(
            f"{len(bare)} of {len(shards)} shards with no index yet, so nothing to compare with "
            f"({first_of(bare)}): python launch/pack.py index SHARD... makes it"
        )
    if lines:
        raise ShardError("; ".join(lines))
    return Packed(len(shards), samples, size, unread)


def unread_of(indexes: Sequence[ShardIndex]) -> str:
    """`2 never read: ../a (unsafe_name), b.gif (unknown_ending)`."""
    unread = [one for index in indexes for one in index.unread]
    named = [f"{printable(one.key)[:LONGEST]} ({one.reason})" for one in unread]
    return f"{len(unread)} never read: {first_of(named, NAMED)}"


def _index(shard: Path) -> ShardIndex:
    if index_path(shard).is_file():
        return read_index(shard)
    index = build_index(shard)
    try:
        store_index(index)
    except OSError as error:
        raise ShardError(f"{index_path(shard)}: cannot be written: {error.strerror}") from None
    return index


def _verify(shard: Path) -> ShardIndex:
    """The index of a whole shard, built anew: a stored one may not name all that is never read.

    It sees every byte; where it differs, the stored one tells the samples.
    """
    if shard.is_file() and not index_path(shard).is_file():
        raise NotIndexedError(str(shard))
    stored = read_index(shard)
    fresh, problem = None, ""
    try:
        fresh = build_index(shard)
    except ShardError as error:
        problem = str(error)
    if damaged := _damaged_samples(stored):
        some = f"{len(damaged)} of {len(stored)} samples"
        raise ShardError(f"{shard}: {some} damaged: {', '.join(damaged)}")
    if fresh is None:
        raise ShardError(problem)
    if not stored.digest:
        raise ShardError(
            f"{index_path(shard)}: has no hash of the whole shard; delete it to build it again"
        )
    if fresh.digest != stored.digest:
        raise ShardError(f"{shard}: damaged outside of its samples (headers, padding, end)")
    if not _same(fresh, stored):
        raise ShardError(
            f"{index_path(shard)}: does not describe its shard; delete it to build it again"
        )
    return fresh


def _damaged_samples(index: ShardIndex) -> list[str]:
    """`key (member, ...)` of every sample with a member that does not have its hash."""
    damaged = []
    with index.path.open("rb") as file:
        for row in range(len(index)):
            wrong = []
            for kind in MEMBERS:
                offset, size = (int(value) for value in index.places[kind][row])
                if size < 0:
                    continue
                file.seek(offset)
                digest = xxhash.xxh3_64_intdigest(file.read(size))
                if digest != int(index.hashes[kind][row]):
                    wrong.append(kind)
            if wrong:
                damaged.append(f"{printable(index.keys[row].as_py())} ({', '.join(wrong)})")
    return damaged


def _same(fresh: ShardIndex, stored: ShardIndex) -> bool:
    tables = (fresh.places, stored.places), (fresh.hashes, stored.hashes)
    return (
        fresh.keys.equals(stored.keys)
        and fresh.uids.equals(stored.uids)
        and fresh.unread[: len(stored.unread)] == stored.unread
        and all(np.array_equal(mine[k], yours[k]) for mine, yours in tables for k in MEMBERS)
    )
