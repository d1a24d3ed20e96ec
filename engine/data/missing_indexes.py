"""Indexes that shards lack, made before the set is opened: by all processes together."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from engine.data.index import index_path, open_index
from engine.data.open_source import named_paths
from engine.progress import Progress
from engine.share import Share


def make_missing_indexes(spec: str | Sequence[str], share: Share) -> None:
    """Each process reads its share of the shards without an index. Collective.

    Where machines have disks of their own, a set still lacks those of the other processes when it
    is opened, which makes them.

    Args:
        spec: what a run trains on, as `open_source` takes it; what is no shard is passed over.
        share: of this process.

    Raises:
        ConfigError: a glob that nothing matches.
        ShardError: a shard that cannot be read.
        OthersError: the same of another process.
    """
    shards = list(_without_index([spec] if isinstance(spec, str) else spec))
    mine = [number for part in share.parts(len(shards), 1) for number in part]
    progress = Progress("indexed", "shards", len(mine), share.here.is_main)
    for number in mine:
        open_index(shards[number])
        progress.add(1)
    share.meet(None)


def _without_index(specs: Sequence[str]) -> Iterator[Path]:
    for path in (path for spec in specs if spec for path in named_paths(spec)):
        for shard in sorted(path.glob("*.tar")) if path.is_dir() else [path]:
            # In a folder that cannot be written nobody would find it.
            is_missing = shard.suffix == ".tar" and not index_path(shard).is_file()
            if is_missing and shard.is_file() and os.access(shard.parent, os.W_OK):
                yield shard
