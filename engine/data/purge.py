"""Samples taken out of a finished shard; what stays, stays byte for byte."""

import json
import os
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from engine.config import ConfigError
from engine.data.index import build_index, index_path, open_index, read_index, store_index
from engine.data.picture_files import MAX_BYTES
from engine.data.shards import read_facts
from engine.data.tar_members import BLOCK, ShardError, key_of, members
from engine.durable import sync, write_whole

# In the folder of a set: uids of what was taken out, which must not come back.
PURGED = "purged.jsonl"
# What is no uid but the URL of a picture begins so.
URL = ("http://", "https://")
END = bytes(2 * BLOCK)
# As tarfile fills up the end.
RECORD = 20 * BLOCK


@dataclass(frozen=True)
class Out:
    """Samples that go.

    Attributes:
        pairs: (key, uid) of each.
        names: by which they were asked for.
        before: fingerprint of the shard.
        after: fingerprint of what stays.
    """

    pairs: list[tuple[str, str]]
    names: set[str]
    before: str
    after: str


Found = Callable[[Out], None]


def purge_shard(shard: Path, names: Collection[str], found: Found) -> int:
    """Take samples out of a shard, and make its index anew; nothing is done where it has none.

    The index goes first and the shard is replaced whole: a process that is killed in between leaves
    a shard without an index, old or new, which readers build; the next purge does too.

    Args:
        shard: the tar file.
        names: uids of the samples to take out, or URLs in their JSON.
        found: told of them before anything is changed.

    Returns:
        How many samples were taken out.

    Raises:
        ShardError: a shard that is damaged, no tar file, or a link; it is left as it is.
    """
    if shard.is_symlink():
        # Replacing a link would leave the samples in the file behind it.
        raise ShardError(f"{shard}: is a link; name the shard itself, {shard.resolve()}")
    fresh = build_index(shard)
    if index_path(shard).is_file() and read_index(shard).digest not in ("", fresh.digest):
        raise ShardError(f"{shard}: damaged: its bytes are not those that its index was made for")
    twice = [one.key for one in fresh.unread if one.reason == "duplicate_name"]
    if twice:
        raise ShardError(f"{shard}: two members of one kind of the sample {twice[0]!r}: whose?")
    pairs = list(zip(fresh.keys.to_pylist(), fresh.uids.to_pylist(), strict=True))
    # What is never read is taken out all the same.
    pairs += [(one.key, one.uid) for one in fresh.unread]
    asked = by_url(shard, names)
    out = [(key, uid) for key, uid in pairs if uid in names or key in asked]
    if not out:
        if not index_path(shard).is_file():
            store_index(fresh)
        return 0
    partial = shard.with_name(f".{shard.name}.{uuid.uuid4().hex}.partial")
    try:
        with shard.open("rb") as source, partial.open("wb") as target:
            _copy(source, target, shard, {key for key, _ in out})
        sync(partial)
        left = replace(build_index(partial), path=shard)
        met = {uid for _, uid in out if uid in names} | {url for _, url in asked.values()}
        found(Out(out, met, fresh.fingerprint, left.fingerprint))
        index_path(shard).unlink(missing_ok=True)
        os.replace(partial, shard)
    finally:
        partial.unlink(missing_ok=True)
    store_index(left)
    sync(index_path(shard))
    sync(shard.parent)
    return len(out)


def by_url(shard: Path, names: Collection[str]) -> dict[str, tuple[str, str]]:
    """uid and URL of each sample whose URL is among some names, by key.

    Raises:
        ShardError: a shard that is damaged.
    """
    urls, found = {name for name in names if name.startswith(URL)}, {}
    if not urls:
        return found
    with shard.open("rb") as file:
        for member in members(file, shard):
            key, suffix = key_of(member.name)
            if suffix.lower() != "json" or member.size > MAX_BYTES:
                continue
            file.seek(member.offset)
            facts = read_facts(file.read(member.size))
            if (url := str(facts.get("url"))) in urls:
                found[key] = str(facts.get("uid") or key), url
    return found


def noted(folder: Path) -> list[dict[str, Any]]:
    """What is noted of purges in a folder, in order.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / PURGED
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [dict(json.loads(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        problem = getattr(error, "strerror", None) or "damaged"
        raise ConfigError(f"{path}: {problem}") from None


def purged_since(shard: Path, now: str, before: str) -> set[str] | None:
    """Keys of what was purged from a shard since it was another; None where it never was that one.

    Args:
        shard: the tar file; notes lie beside it, those of a cleaned set a folder above.
        now: its fingerprint.
        before: the other's.

    Raises:
        ConfigError: notes that cannot be read.
    """
    if now == before:
        return set()
    was, keys = {now}, set()
    for one in reversed([line for folder in shard.parents[:2] for line in noted(folder)]):
        # Those of purges that were killed, and made no shard, lead nowhere.
        if one.get("after") in was:
            was.add(one["before"])
            keys.add(one["key"])
    return keys if before in was else None


def purge_beside(shard: Path, names: Collection[str]) -> set[str]:
    """Take rows out of the table that img2dataset writes beside a shard: URL, caption, EXIF.

    It has rows of pictures that are in no shard too, and pictures that were purged from the shard
    before are taken out of it by their noted keys.

    Args:
        shard: `00000.tar` of `00000.parquet`, purged and noted.
        names: uids or URLs of the samples to take out.

    Returns:
        Which of them it told of.

    Raises:
        ShardError: a table that is damaged, or does not tell whose rows are whose; it is left.
    """
    path = shard.with_suffix(".parquet")
    if not path.is_file():
        return set()
    if path.is_symlink():
        raise ShardError(f"{path}: is a link; take the rows out of {path.resolve()} yourself")
    gone = [one for one in noted(shard.parent) if one.get("shard") == shard.name]
    # Another shard of that name may have come since.
    here = set(open_index(shard).keys.to_pylist())
    keys = {str(one["key"]): str(one["uid"]) for one in gone if one["key"] not in here}
    same = {name: name for name in names}
    try:
        table = pq.read_table(pa.py_buffer(path.read_bytes()))
        met, theirs = set(), pa.array([False] * len(table), pa.bool_())
        for column, known in (("key", keys), ("uid", same), ("url", same)):
            if column in table.column_names:
                texts = table[column].cast(pa.string())
                found = pc.is_in(texts, value_set=pa.array(sorted(known), pa.string()))
                theirs = pc.or_(theirs, found)
                met |= {known[text] for text in texts.filter(found).to_pylist()}
    except (OSError, ValueError, pa.ArrowException) as error:
        problem = " ".join(str(error).split())
        raise ShardError(f"{path}: not a readable Parquet table: {problem}") from None
    if keys and not {"key", "uid"} & {*table.column_names}:
        raise ShardError(
            f"{path}: has no column key or uid, so that rows of pictures that were taken out of "
            f"{shard.name} cannot be told: delete it, or take them out yourself"
        )
    if met:
        sink = pa.BufferOutputStream()
        pq.write_table(table.filter(pc.invert(theirs)), sink)
        write_whole(path, sink.getvalue().to_pybytes())
    return met


def _copy(source: BinaryIO, target: BinaryIO, shard: Path, out: set[str]) -> None:
    """All members but those of some keys, each with the headers that stand before it."""
    begin = 0
    for member in members(source, shard):
        end = member.offset + -(-member.size // BLOCK) * BLOCK
        if not {member.name, key_of(member.name)[0]} & out:
            source.seek(begin)
            left = end - begin
            while left and (part := source.read(min(left, 1 << 20))):
                target.write(part)
                left -= len(part)
        begin = end
    target.write(END)
    target.write(bytes(-target.tell() % RECORD))
