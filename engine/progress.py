"""How far a long piece of work is: a line on stderr every ten seconds."""

import sys
import time
from datetime import timedelta

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """`captioned 640 of 5000 pictures, 12.3 a second, 0:05:54 left`; work of seconds says nothing.

    Args:
        verb: what was done.
        noun: to what, in the plural.
        total: of them, None where nobody knows.
        talks: whether anything is said.
    """

    def __init__(self, verb: str, noun: str, total: int | None = None, talks: bool = True) -> None:
        self.verb, self.noun, self.total, self.talks = verb, noun, total, talks
        self.done = 0
        self._begun = self._shown = time.monotonic()

    def add(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        now = time.monotonic()
        if not self.talks or now - self._shown < SECONDS_BETWEEN_LINES:
            return
        self._shown = now
        rate = self.done / (now - self._begun)
        words = f"{self.verb} {self.done} {self.noun}, {rate:.1f} a second"
        if self.total is not None:
            words = f"{self.verb} {self.done} of {self.total} {self.noun}, {rate:.1f} a second"
        if self.total is not None and rate:
            words += f", {timedelta(seconds=int(max(self.total - self.done, 0) / rate))} left"
        print(words, file=sys.stderr, flush=True)
