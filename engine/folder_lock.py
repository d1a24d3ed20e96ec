"""A folder with one writer at a time."""

import contextlib
import fcntl
import logging
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from engine.config import ConfigError

log = logging.getLogger(__name__)
LOCK = ".lock"
# Open ones of this process.
_OPEN: set[TextIO] = set()
# Those of them that this process has signed.
_SIGNED: set[TextIO] = set()


def _let_go() -> None:
    """A lock is free when the last process that has it open is gone, and processes that load data
    outlive by seconds a run that is killed: none of them has it open."""
    while _OPEN:
        _OPEN.pop().close()


os.register_at_fork(after_in_child=_let_go)


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
    with (folder / LOCK).open("r+") as lock:
        _OPEN.add(lock)
        try:
            yield lock
        finally:
            _OPEN.discard(lock)
            # Said aloud: a program started meanwhile may have it open without knowing.
            with contextlib.suppress(OSError):
                if lock in _SIGNED:
                    _SIGNED.discard(lock)
                    os.ftruncate(lock.fileno(), 0)
                fcntl.flock(lock, fcntl.LOCK_UN)


def try_lock(lock: TextIO) -> bool:
    """Take the lock; False where another process has it. On a disk without locks nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        log.warning("%s: %s: nothing keeps a second run out", lock.name, error.strerror)
    # For people: it keeps nobody out.
    with contextlib.suppress(OSError):
        sign(lock)
    return True


def sign(lock: TextIO, mark: str = "") -> None:
    """Write into a lock who has it; it is empty again when it is given back.

    Args:
        lock: that this process has.
        mark: to be written behind it.

    Raises:
        OSError: the disk is full, say.
    """
    _SIGNED.add(lock)
    os.ftruncate(lock.fileno(), 0)
    os.pwrite(lock.fileno(), f"{platform.node()} {os.getpid()} {mark}".encode(), 0)


def holder(folder: Path) -> str:
    """` (process NUMBER on MACHINE)` of who has a folder's lock; "" where nobody has signed it."""
    try:
        signed = (folder / LOCK).read_text(encoding="utf-8", errors="replace")
        machine, process, *_ = signed.split()
    except (OSError, ValueError):
        return ""
    return f" (process {process} on {machine})"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[bool]:
    """Hold a folder by itself, with no file left in it, until the context ends; False where another
    process does. One on a disk that locks no folders counts as free.

    Raises:
        OSError: no such folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except OSError as error:
        free = not isinstance(error, BlockingIOError)
    try:
        yield free
    finally:
        os.close(descriptor)
