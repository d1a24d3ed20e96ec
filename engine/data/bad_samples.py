"""Counts what could not be used, and stops a run that has too much of it."""

from collections import Counter

from engine.config import ConfigError
from engine.data.batch import Batch


class BadSampleLedger:
    """Counts bad samples by reason and stops a run that has too many of them.

    Args:
        max_fraction: of the samples seen, judged from 200 samples on.
    """

    ROW_LIMIT, JUDGED_FROM = 100, 200

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self.reasons: Counter[str] = Counter()
        self.seen = self.in_a_row = 0

    @property
    def total(self) -> int:
        """Bad samples so far."""
        return sum(self.reasons.values())

    @property
    def kinds(self) -> str:
        """Counts by reason in words, the commonest first."""
        return ", ".join(f"{count} {reason}" for reason, count in self.reasons.most_common())

    def add(self, batch: Batch) -> list[tuple[str, str]]:
        """Count a batch; see `count`."""
        return self.count(batch.key, batch.reason)

    def count(self, keys: list[str], reasons: list[str]) -> list[tuple[str, str]]:
        """Count samples in slot order; return (key, reason) of the bad ones.

        Raises:
            ConfigError: too large a share is bad, or 100 in a row are.
        """
        bad = []
        for key, reason in zip(keys, reasons, strict=True):
            self.seen += 1
            self.in_a_row = self.in_a_row + 1 if reason else 0
            if reason:
                self.reasons[reason] += 1
                bad.append((key, reason))
        too_many = self.seen >= self.JUDGED_FROM and self.total > self.max_fraction * self.seen
        if too_many or self.in_a_row >= self.ROW_LIMIT:
            last = f"; last: {bad[-1][0]}" if bad else ""
            raise ConfigError(
                f"{self.total} of {self.seen} samples are bad ({self.kinds}){last}; "
                f"mend the data or raise data.max_bad_fraction ({self.max_fraction})"
            )
        return bad
