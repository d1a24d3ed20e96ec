"""The sidecar index of a tar shard: where each member lies, its hash, and the hash of the whole.

Built by walking the headers once. Reading through it is random access, and every byte of a member
is checked; a damaged header or a truncated shard is found when the index is built, or, later, by
size, by header checksums and by hashes. What is in a shard but never read is named in it.
"""

import errno
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from engine.data.picture_files import MAX_BYTES, is_pipe
from engine.data.tar_members import BLOCK, RefusedError, ShardError, key_of, members

PICTURES = ("jpg", "jpeg", "png", "webp")
MEMBERS = ("image", "txt", "json")
# What this process or machine lacks says nothing about a shard.
LACKING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
FORMAT = 1
# Of what is never read, so many characters of names and reasons are stored: an index stays small,
# and readable, whatever names a stranger's shard has.
NOTED = 1 << 20
NUMBERS = {"offset": pa.int64(), "size": pa.int64(), "hash": pa.uint64()}
SCHEMA = pa.schema(
    [("key", pa.string()), ("uid", pa.string())]
    + [(f"{kind}_{what}", form) for kind in MEMBERS for what, form in NUMBERS.items()]
)


@dataclass(frozen=True)
class Unread:
    """What is in a shard and is never read.

    Attributes:
        key: of the sample, or the whole name of a member that is no part of any.
        uid: stable name, from the sample's JSON or the key.
        reason: `unknown_ending`, `duplicate_name` (two pictures, texts or facts of one key), or a
            problem of a `Member`.
    """

    key: str
    uid: str
    reason: str


@dataclass(frozen=True)
class ShardIndex:
    """Index of one shard.

    Attributes:
        path: the tar file.
        keys: N sample keys.
        uids: N stable names, from the sample's JSON or the key.
        places: per kind of member (`image`, `txt`, `json`): [N, 2] int64 offset and size,
            size -1 where the sample has no such member.
        hashes: per kind: [N] uint64 xxh3 of the member's bytes.
        digest: xxh3_128 of the whole file; "" in an index from before there was one.
        unread: what else is in the shard. A stored index has the first `NOTED` characters of it,
            and none where it is from before this was noted.
    """

    path: Path
    keys: pa.ChunkedArray
    uids: pa.ChunkedArray
    places: dict[str, np.ndarray]
    hashes: dict[str, np.ndarray]
    digest: str
    unread: tuple[Unread, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def fingerprint(self) -> str:
        """Hash of the index: which samples, in which order, with which bytes."""
        state = xxhash.xxh3_128("".join(f"{key}\0" for key in self.keys.to_pylist()).encode())
        for kind in MEMBERS:
            state.update(self.hashes[kind].tobytes())
        return state.hexdigest()


def index_path(shard: Path) -> Path:
    """`00000.tar` -> `00000.tar.index`."""
    return shard.with_name(shard.name + ".index")


def open_index(shard: Path) -> ShardIndex:
    """The index of a shard; built and stored beside it where there is none.

    Raises:
        ShardError: the shard cannot be read, its structure is damaged, or its index is another's.
    """
    if index_path(shard).is_file():
        return read_index(shard)
    index = build_index(shard)
    try:
        store_index(index)
    except OSError:
        # A read-only folder: the index serves this process only.
        return index
    return index


def read_index(shard: Path) -> ShardIndex:
    """The index that is stored beside a shard.

    Raises:
        ShardError: there is none, it is not readable, or it was made for other bytes.
    """
    stored = index_path(shard)
    try:
        size = shard.stat().st_size
        if not os.access(shard, os.R_OK):
            raise ShardError(f"{shard}: permission denied")
        if not stored.is_file():
            raise ShardError(f"{shard}: has no index ({stored.name})")
        # A flipped bit in a page is found here; the footer's are found by what is made of it.
        with _file(stored) as file, pq.ParquetFile(file, page_checksum_verification=True) as pages:
            facts = json.loads(pages.schema_arrow.metadata[b"shard"])
            rows, made_for = pages.metadata.num_rows, facts["bytes"]
            # A sample takes a header: of more than fit there may be any number.
            if facts["format"] != FORMAT or not rows == facts["samples"] <= made_for // BLOCK:
                raise ValueError(facts)
            if made_for != size:
                raise ShardError(
                    f"{shard} has {size} bytes but its index was made for {made_for}: the shard "
                    "was truncated or replaced; if it was replaced on purpose, delete "
                    f"{stored.name}"
                )
            table = pages.read(use_threads=False)
        unread = tuple(Unread(*map(str, one)) for one in facts.get("unread", ()))
        index = _from_table(shard, table, facts.get("digest", ""), unread, made_for)
    except ShardError:
        raise
    except FileNotFoundError:
        left = ", only its index is left" if stored.is_file() else ""
        raise ShardError(f"{shard}: no such file{left}") from None
    except OSError as error:
        if error.errno in LACKING:
            raise
        if isinstance(error, PermissionError):
            raise ShardError(f"{stored}: permission denied") from None
        raise ShardError(f"{stored}: not a readable index; delete it to build it again") from None
    except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException):
        raise ShardError(f"{stored}: not a readable index; delete it to build it again") from None
    return index


def _from_table(
    shard: Path, table: pa.Table, digest: str, unread: tuple[Unread, ...], end: int
) -> ShardIndex:
    if not table.schema.equals(SCHEMA) or any(column.null_count for column in table.columns):
        raise ValueError(table.schema)
    table.validate(full=True)
    places, hashes = {}, {}
    for kind in MEMBERS:
        columns = [table[f"{kind}_{what}"].to_numpy() for what in ("offset", "size")]
        places[kind] = np.stack(columns, 1)
        if (places[kind] < -1).any() or (places[kind] > end).any():
            raise ValueError(kind)
        hashes[kind] = table[f"{kind}_hash"].to_numpy()
    return ShardIndex(shard, table["key"], table["uid"], places, hashes, digest, unread)


def store_index(index: ShardIndex) -> None:
    """Write the sidecar: a temporary file, then a rename, so that two builders do no harm."""
    columns: dict[str, object] = {"key": index.keys, "uid": index.uids}
    for kind in MEMBERS:
        columns[f"{kind}_offset"] = index.places[kind][:, 0]
        columns[f"{kind}_size"] = index.places[kind][:, 1]
        columns[f"{kind}_hash"] = index.hashes[kind]
    size = index.path.stat().st_size
    facts = {"format": FORMAT, "bytes": size, "samples": len(index), "digest": index.digest}
    named = [[one.key, one.uid, one.reason] for one in index.unread]
    ends = accumulate(sum(map(len, one)) for one in named)
    if noted := [one for one, end in zip(named, ends, strict=True) if end <= NOTED]:
        facts["unread"] = noted
    table = pa.table(columns).replace_schema_metadata({"shard": json.dumps(facts)})
    target = index_path(index.path)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        with _file(name, "wb") as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _file(path: Path | str, mode: str = "rb") -> pa.NativeFile:
    """A file of any name: as text Arrow takes those alone that are UTF-8."""
    return pa.OSFile(os.fsencode(path), mode)


def build_index(shard: Path) -> ShardIndex:
    """Walk a shard's headers, hash its members and the whole of it.

    Raises:
        ShardError: not readable, not a tar, a damaged header, an end that is missing, or another
            file when it was walked through, as after a purge: an index of the one before must not
            come to stand beside it.
    """
    if is_pipe(shard):
        raise ShardError(f"{shard}: not a file")
    try:
        with shard.open("rb") as file:
            before = _state(os.fstat(file.fileno()))
            index = _build(file, shard)
        if _state(shard.stat()) != before:
            raise ShardError(f"{shard}: was replaced while it was read")
    except OSError as error:
        if error.errno in LACKING:
            raise
        raise RefusedError(f"{shard}: {error.strerror}") from None
    return index


def _state(file: os.stat_result) -> tuple[int, int, int]:
    return file.st_ino, file.st_size, file.st_mtime_ns


def _build(file: BinaryIO, shard: Path) -> ShardIndex:
    samples: dict[str, dict[str, tuple[int, int, int]]] = {}
    uids: dict[str, str] = {}
    problems: dict[str, str] = {}
    others: list[tuple[str, Unread]] = []
    for member in members(file, shard):
        key, suffix = key_of(member.name)
        kind = "image" if suffix.lower() in PICTURES else suffix.lower()
        if kind not in MEMBERS:
            reason = member.problem or "unknown_ending"
            others.append((key, Unread(member.name, member.name, reason)))
            continue
        if member.size > MAX_BYTES:
            problems.setdefault(key, "member_too_large")
            samples.setdefault(key, {})
            continue
        file.seek(member.offset)
        content = file.read(member.size)
        sample = samples.setdefault(key, {})
        if member.problem or kind in sample:
            problems.setdefault(key, member.problem or "duplicate_name")
        sample[kind] = (member.offset, member.size, xxhash.xxh3_64_intdigest(content))
        if kind == "json":
            uids[key] = _uid(content)
    unread = [Unread(key, uids.get(key) or key, reason) for key, reason in problems.items()]
    # What else a sample comes with, class labels or masks, is not missed.
    unread += [one for key, one in others if key not in samples]
    samples = {key: sample for key, sample in samples.items() if key not in problems}
    places = {kind: np.full((len(samples), 2), -1, np.int64) for kind in MEMBERS}
    hashes = {kind: np.zeros(len(samples), np.uint64) for kind in MEMBERS}
    for row, sample in enumerate(samples.values()):
        for kind, (offset, size, digest) in sample.items():
            places[kind][row] = offset, size
            hashes[kind][row] = digest
    keys = list(samples)
    return ShardIndex(
        shard,
        pa.chunked_array([pa.array(keys, pa.string())]),
        pa.chunked_array([pa.array([uids.get(key) or key for key in keys], pa.string())]),
        places,
        hashes,
        _digest(file),
        tuple(unread),
    )


def _digest(file: BinaryIO) -> str:
    """Hash of the whole file, headers and padding included."""
    file.seek(0)
    return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


def _uid(content: bytes) -> str:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    uid = str(facts.get("uid") or "") if isinstance(facts, dict) else ""
    return uid.encode("utf-8", "replace").decode()
