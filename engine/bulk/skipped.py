"""What could not be used: the first ones by name, all of them by number."""

import sys
from collections import Counter

from engine.data.picture_files import printable

NAMED = 20


class Skipped:
    """Counts and names what is skipped, on stderr."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many so far."""
        return self.reasons.total()

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())
        return f"{self.total} skipped" + (f" ({kinds})" if kinds else "")

    def add(self, name: str, reason: str) -> None:
        """One more."""
        reason = printable(reason)
        self.reasons[reason] += 1
        if self.total <= NAMED:
            print(f"skipped {printable(name)}: {reason}", file=sys.stderr, flush=True)
        if self.total == NAMED + 1:
            print("skipped more than these: they are only counted", file=sys.stderr, flush=True)
