"""One computation at a time, and a bounded number that wait for it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# How often whoever waits is looked after.
LOOK_SECONDS = 0.5


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
    def taken(self, left: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Wait for the others and be alone.

        Args:
            left: whether nobody waits for it any more; its place is then another's.

        Raises:
            Busy: too many wait already, or it is over.
            ConnectionError: nobody waits for it any more.
        """
        if self._ended or not self._places.acquire(blocking=False):
            raise Busy
        try:
            alone = False
            while not alone and not left():
                alone = self._work.acquire(timeout=LOOK_SECONDS)
            if not alone:
                raise ConnectionError("the sender left")
            try:
                if self._ended:
                    raise Busy
                if left():
                    raise ConnectionError("the sender left")
                yield
            finally:
                self._work.release()
        finally:
            self._places.release()

    def end(self, patience: float) -> None:
        """Let nobody in any more and wait, at most `patience` seconds, for the one in work."""
        self._ended = True
        if self._work.acquire(timeout=patience):
            self._work.release()
