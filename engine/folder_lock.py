"""A folder with one writer at a time."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from engine.config import ConfigError

LOCK = ".lock"


@contextlib.contextmanager
def open_lock(folder: Path) -> Iterator[TextIO]:
    """A folder's lock, which is not taken yet; it is given back when the context ends.

    Raises:
        ConfigError: the folder is a file, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir {folder} is a file")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).touch()
    except OSError as error:
        raise ConfigError(f"output_dir {folder}: cannot be written: {error.strerror}") from None
    with (folder / LOCK).open("w") as lock:
        try:
            yield lock
        finally:
            # Said aloud: a process forked meanwhile would keep the lock of a file merely closed.
            fcntl.flock(lock, fcntl.LOCK_UN)


def try_lock(lock: TextIO) -> bool:
    """Take the lock; False where another process has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
