"""Files that are on the disk, whole, before anything relies on them."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Wait until a file or the entries of a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def partial_of(path: Path) -> Path:
    """What a file is called until it is whole; a process that was killed leaves it there."""
    return path.with_name(f".{path.name}.partial")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, after a power cut too."""
    partial = partial_of(path)
    try:
        partial.write_bytes(content)
        sync(partial)
        os.replace(partial, path)
    finally:
        # Nothing of it stays where the disk refuses.
        partial.unlink(missing_ok=True)
    sync(path.parent)
