"""A bounded look at tar shards: however many there are, so many are opened and no index is written.

The indexes of a few shards are read whole; of the others the footer alone, which says how many
samples there are and for which size of the shard.
"""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from engine.data.index import ShardError, ShardIndex, build_index, index_path, read_index
from engine.data.shards import Shards
from engine.findings import Finding, error, warning

OPENED, FOOTERS = 16, 512
# Bytes of shards without an index that are read through to make one in memory.
READ_THROUGH = 256 << 20
NAMED, MEMBERS_LOOKED_AT = 5, 32


@dataclass(frozen=True)
class Looked:
    """What a look at shards tells.

    Attributes:
        shards: the opened ones.
        samples: in all of them, estimated from the others where an index is missing.
        whole: whether every shard was opened.
        findings: what is wrong with them.
    """

    shards: Shards
    samples: int
    whole: bool
    findings: list[Finding]


def look_at_shards(key: str, paths: Sequence[Path]) -> Looked:
    """Open some shards and look at the footers of the others' indexes.

    Args:
        key: setting that names them.
        paths: tar files that are there.
    """
    indexes: dict[Path, ShardIndex] = {}
    counts: dict[Path, int] = {}
    damaged: list[str] = []
    bare = [path for path in paths if not index_path(path).is_file()]
    budget = READ_THROUGH
    for path in spread(paths, OPENED):
        try:
            if path in bare:
                size = path.stat().st_size
                if indexes and size > budget:
                    continue
                budget -= size
                indexes[path] = build_index(path)
            else:
                indexes[path] = read_index(path)
            counts[path] = len(indexes[path])
        except (ShardError, OSError) as problem:
            damaged.append(str(problem))
    rest = [path for path in paths if path not in bare and path not in counts]
    for path in spread([path for path in rest if path not in spread(paths, OPENED)], FOOTERS):
        try:
            counts[path] = _stated(path)
        except (ShardError, OSError) as problem:
            damaged.append(str(problem))
    findings = [
        error("shard_damaged", f"{key}: {problem}; fetch it again, or leave it out of {key}")
        for problem in damaged[:NAMED]
    ]
    if len(damaged) > NAMED:
        findings.append(
            error(
                "shard_damaged",
                f"{key}: {len(damaged) - NAMED} more shards are damaged: python launch/pack.py "
                "verify names all of them",
            )
        )
    findings += _bare(key, [path for path in bare if str(path) not in " ".join(damaged)], paths)
    opened = list(indexes)
    whole = len(opened) == len(paths)
    return Looked(Shards(opened, indexes.__getitem__), _estimate(paths, counts), whole, findings)


def spread(items: Sequence, most: int) -> list:
    """At most so many items, evenly over all of them, first and last included."""
    if len(items) <= most:
        return list(items)
    return [items[number * (len(items) - 1) // (most - 1)] for number in range(most)]


def member_endings(shard: Path) -> list[str]:
    """Endings of a shard's first members, `jpg` or `image.jpg`; what cannot be read has none."""
    found: dict[str, None] = {}
    try:
        with tarfile.open(shard) as tar:
            for member in islice(tar, MEMBERS_LOOKED_AT):
                found[member.name.rpartition("/")[2].partition(".")[2]] = None
    except (OSError, tarfile.TarError):
        return []
    return list(found)


def _stated(shard: Path) -> int:
    """Samples of a shard, by the footer of its index alone.

    Raises:
        ShardError: the index is not readable, or was made for a shard of another size.
    """
    try:
        facts = json.loads(pq.read_schema(index_path(shard)).metadata[b"shard"])
        if facts["bytes"] == shard.stat().st_size:
            return int(facts["samples"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        pass
    # It says what is wrong.
    return len(read_index(shard))


def _bare(key: str, bare: list[Path], paths: Sequence[Path]) -> list[Finding]:
    if not bare:
        return []
    size = sum(path.stat().st_size for path in spread(bare, FOOTERS)) / 1e9
    return [
        warning(
            "index_missing",
            f"{key}: {len(bare)} of {len(paths)} shards have no index ({bare[0]}): the run would "
            f"read {size:.1f} GB before its first step; python launch/pack.py index makes them",
        )
    ]


def _estimate(paths: Sequence[Path], counts: dict[Path, int]) -> int:
    """Samples of all shards: those that were counted, and as many a byte of the others."""
    known = sum(counts.values())
    if len(counts) in (0, len(paths)):
        return known
    return round(known * len(paths) / len(counts))
