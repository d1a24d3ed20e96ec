"""One computation at a time, and a bounded number that wait for it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Busy(Exception):
    """As many wait as may, or the demo is ending."""


class Turn:
    """Whose turn it is.

    Args:
        waiting: that may wait while one is in work.
    """

    def __init__(self, waiting: int) -> None:
        self._places = threading.BoundedSemaphore(waiting + 1)
        self._work = threading.Lock()
        self._ended = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the others and be alone.

        Raises:
            Busy: too many wait already, or it is over.
        """
        if self._ended or not self._places.acquire(blocking=False):
            raise Busy
        try:
            with self._work:
                if self._ended:
                    raise Busy
                yield
        finally:
            self._places.release()

    def end(self, patience: float) -> None:
        """Let nobody in any more and wait, at most `patience` seconds, for the one in work."""
        self._ended = True
        if self._work.acquire(timeout=patience):
            self._work.release()
