"""Pictures of a pair set as files of a task: what is read of the set, and what is written."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from engine.data.images import extension_of
from engine.data.open_source import open_source
from engine.data.source import RawSample

NOT_A_NAME = re.compile(r"[^\w-]")


def read_parts(train: str, heldout: str) -> dict[str, list[RawSample]]:
    """All samples of both parts.

    Args:
        train: named pictures (shards, folder or annotation file).
        heldout: the same of the held-out part.

    Raises:
        ConfigError: no such pictures.
    """
    sources = {"train": open_source(train), "heldout": open_source(heldout)}
    return {part: [s.read(n) for n in range(len(s))] for part, s in sources.items()}


def file_of(sample: RawSample) -> str:
    """Where a picture lies below the folder of a task."""
    return f"images/{NOT_A_NAME.sub('_', sample.uid)}.{extension_of(sample.image or b'')}"


def write_pictures(folder: Path, samples: Sequence[RawSample], named: Collection[str]) -> None:
    """Write the pictures whose files are named below the folder of a task."""
    for sample in samples:
        if file_of(sample) in named:
            (folder / file_of(sample)).write_bytes(sample.image or b"")
