"""Tar shards, read through their indexes."""

import json
import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import xxhash

from engine.data.index import (
    LACKING,
    MEMBERS,
    ShardError,
    ShardIndex,
    index_path,
    open_index,
)
from engine.data.source import RawSample, of_several, stable_id

# Where the JSON of a sample holds what captioning and filtering made of it.
CLEANED = "capfilt"
# What it calls a text that a captioner wrote.
SYNTHETIC = "synthetic"
# Looks at indexes after which one that none of them was at is let go of; or, where that is more, as
# many as it takes to meet every shard of a window: so many a shard, or all of its samples.
TURN, LOOKS_A_SHARD = 1 << 12, 32
# Shards that are held open: so many, and as many that were open before these.
FILES = 32
# Problems of the samples of a shard that went, or changed, while it was open.
INDEX_CHANGED, UNREADABLE = "index_changed", "unreadable_shard"
# Problems with which a sample's texts are not to be trusted either.
DAMAGED = ("hash_mismatch", "truncated_shard", INDEX_CHANGED, UNREADABLE)


class Shards:
    """Samples of many shards, by number.

    Every index is read and checked when the set is opened, and read again when its samples are:
    what is held at a time are the indexes of shards that are being read, however long the set is.
    Pictures of several folders are known by their bytes, those of one by uid or `image_id`, and
    keys of the second folder end in `@1`.

    Args:
        paths: tar files, in order.
        index_of: gives the index of each.
    """

    def __init__(
        self, paths: Sequence[Path], index_of: Callable[[Path], ShardIndex] = open_index
    ) -> None:
        self.paths, self._index_of = list(paths), index_of
        folders = dict.fromkeys(path.parent for path in paths)
        places = {folder: f"@{place}" if place else "" for place, folder in enumerate(folders)}
        # Of each shard, where there are several folders.
        self._marks = [places[path.parent] for path in paths] if len(folders) > 1 else None
        self.lengths: list[int] = []
        self._fingerprints: list[str] = []
        # Of a folder that cannot be written: to build it again takes the whole shard.
        self._unstored: dict[int, ShardIndex] = {}
        self._now: dict[int, ShardIndex] = {}
        self._before: dict[int, ShardIndex] = {}
        self._looks = self._needed = 0
        for number, path in enumerate(self.paths):
            index = index_of(path)
            self.lengths.append(len(index))
            self._fingerprints.append(index.fingerprint)
            if not number:
                self._now[number] = index
            if not index_path(path).is_file():
                self._unstored[number] = index
        self._starts = [0, *accumulate(self.lengths)]
        self._files: dict[int, _File] = {}
        self._files_before: dict[int, _File] = {}
        self._owner = os.getpid()

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def fingerprint(self) -> str:
        """Hash over all indexes."""
        return xxhash.xxh3_128_hexdigest("".join(self._fingerprints).encode())

    def index(self, shard: int) -> ShardIndex:
        """The index of a shard, by its place in `paths`.

        Raises:
            ShardError: it is not what it was when the set was opened.
        """
        return self._look(shard, min(LOOKS_A_SHARD, self.lengths[shard]))

    def indexes(self) -> Iterator[ShardIndex]:
        """The index of every shard, in order."""
        return (self._look(shard, 1) for shard in range(len(self.paths)))

    def _look(self, shard: int, more: int) -> ShardIndex:
        """The index of a shard, at which so many looks are to come."""
        if self._looks >= max(TURN, self._needed):
            self._before, self._now = self._now, {}
            self._looks = self._needed = 0
        self._looks += 1
        # Another thread may turn in between.
        now = self._now
        if shard not in now:
            held = self._before if shard in self._before else self._unstored
            now[shard] = held[shard] if shard in held else self._again(shard)
            self._needed += more
        return now[shard]

    def _again(self, shard: int) -> ShardIndex:
        index = self._index_of(self.paths[shard])
        if index.fingerprint != self._fingerprints[shard]:
            raise ShardError(f"{self.paths[shard]}: was replaced while it was read")
        return index

    def read(self, number: int) -> RawSample:
        """One sample; damage is a `problem` of the sample, never an exception."""
        shard, row = self._place(number)
        try:
            index = self.index(shard)
        except ShardError:
            return _unknown(self.paths[shard], row)
        uid = index.uids[row].as_py()
        parts, problem = self._members(shard, row, index)
        facts = read_facts(parts["json"])
        captions, synthetic = _captions(facts, parts["txt"])
        sample = RawSample(
            key=index.keys[row].as_py(),
            uid=uid,
            url=str(facts.get("url") or ""),
            captions=captions,
            image_id=stable_id(uid if facts.get("image_id") is None else facts["image_id"]),
            image=parts["image"],
            problem=problem,
            synthetic=synthetic,
        )
        return sample if self._marks is None else of_several(sample, self._marks[shard])

    def members(self, number: int) -> tuple[dict[str, bytes | None], str | None]:
        """The bytes of a sample by kind of member, None where it has none, and what is wrong.

        Raises:
            ShardError: the index is not what it was when the set was opened.
        """
        shard, row = self._place(number)
        return self._members(shard, row, self.index(shard))

    def _members(
        self, shard: int, row: int, index: ShardIndex
    ) -> tuple[dict[str, bytes | None], str | None]:
        parts: dict[str, bytes | None] = {}
        problem = None
        for kind in MEMBERS:
            # One number at a time: a row would be an array first.
            offset, size = index.places[kind].item(row, 0), index.places[kind].item(row, 1)
            try:
                parts[kind] = None if size < 0 else self._bytes(shard, offset, size)
            except OSError as error:
                if error.errno in LACKING:
                    raise
                return dict.fromkeys(MEMBERS), UNREADABLE
            content = parts[kind]
            if content is None:
                continue
            if len(content) < size:
                problem = "truncated_shard"
            elif xxhash.xxh3_64_intdigest(content) != index.hashes[kind].item(row):
                problem = "hash_mismatch"
        return parts, problem

    def _place(self, number: int) -> tuple[int, int]:
        """Shard and row of a sample."""
        shard = bisect_right(self._starts, number) - 1
        return shard, number - self._starts[shard]

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        if self._owner != os.getpid():
            # A forked worker must not share file positions with its parent.
            self._files, self._files_before, self._owner = {}, {}, os.getpid()
        # Threads may open the file at once: each holds what it reads from, and one stays.
        file = self._files.get(shard)
        if file is None:
            file = self._files_before.get(shard) or _File(self.paths[shard])
            if len(self._files) >= FILES:
                self._files, self._files_before = {}, self._files
            self._files[shard] = file
        return os.pread(file.number, size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_files_before": {}, "_now": {}, "_before": {}}


class _File:
    """Open for reading until nobody holds it: a thread may read while others let go."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _unknown(shard: Path, row: int) -> RawSample:
    """A sample of which nothing can be said any more."""
    key = f"{shard.name}:{row}"
    return RawSample(key, key, "", [], stable_id(key), None, INDEX_CHANGED)


def read_facts(content: bytes | None) -> dict[str, Any]:
    """A sample's JSON; what is no JSON object holds no facts."""
    try:
        facts = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _captions(facts: dict[str, Any], text: bytes | None) -> tuple[list[Any], tuple[bool, ...]]:
    """The texts, and which of them a captioner wrote.

    A cleaned sample's are in its JSON: there may be several; .txt is the first of them.
    """
    cleaned = facts.get(CLEANED)
    if isinstance(cleaned, dict) and isinstance(cleaned.get("captions"), list):
        sources = cleaned.get("sources")
        sources = sources if isinstance(sources, list) else []
        return cleaned["captions"], tuple(source == SYNTHETIC for source in sources)
    if text is not None:
        return [text.decode("utf-8", "replace")], ()
    caption = facts.get("caption")
    return caption if isinstance(caption, list) else [caption] if caption is not None else [], ()
