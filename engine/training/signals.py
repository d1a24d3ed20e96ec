"""A first SIGTERM or SIGINT asks the run to save and stop; a second one ends it at once."""

import contextlib
import os
import signal
from collections.abc import Iterator
from types import FrameType

STOPPED = 75


class Interrupted(BaseException):
    """A stop was asked for during a wait that may be long."""


class StopRequest:
    """Whether a signal asked to stop; install it as early as possible."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._interrupts = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __bool__(self) -> bool:
        return self.received is not None

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """Leave the block as soon as a stop is asked for.

        Raises:
            Interrupted: when it was, before or inside.
        """
        self._interrupts = True
        try:
            if self:
                raise Interrupted
            yield
        finally:
            self._interrupts = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            # Not 75: whether something was saved is not known.
            os._exit(128 + number)
        self.received = number
        if self._interrupts:
            self._interrupts = False
            raise Interrupted
