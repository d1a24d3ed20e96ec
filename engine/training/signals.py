"""A first SIGTERM or SIGINT asks the run to save and stop; a second one ends it at once."""

import os
import signal
from types import FrameType

STOPPED = 75


class StopRequest:
    """Whether a signal asked to stop; install it as early as possible."""

    def __init__(self) -> None:
        self.received: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __bool__(self) -> bool:
        return self.received is not None

    def _receive(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            os._exit(STOPPED)
        self.received = number
