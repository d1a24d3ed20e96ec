"""What a run says about itself, on the first rank only."""

import sys
import time
from collections import Counter
from datetime import timedelta
from typing import Any

from engine.capfilt.ledger import Ledger, totals
from engine.capfilt.rule import KEPT

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Lines on stderr, at most one every ten seconds.

    Args:
        ledger: of the output, which tells what all processes together have done.
        names: shards of this run.
        talks: whether this process says anything.
    """

    def __init__(self, ledger: Ledger, names: list[str], talks: bool) -> None:
        self.ledger, self.names, self.talks = ledger, set(names), talks
        self._begun, self._shown = time.monotonic(), 0.0
        self._before = self._totals()["pairs"] if talks else 0

    def line(self, here: int = 0) -> None:
        """Say how far all processes are.

        Args:
            here: pictures of the shard that this process has in work.
        """
        now = time.monotonic()
        if not self.talks or (self._shown and now - self._shown < SECONDS_BETWEEN_LINES):
            return
        self._shown = now
        now_done = self._totals()
        done = now_done["pairs"] - self._before + here
        rate = done / max(now - self._begun, 1e-6)
        left = len(self.names) - now_done["shards"]
        words = f"{now_done['shards']} of {len(self.names)} shards, {rate:.1f} images/s"
        if now_done["pairs"]:
            words += f", {shares(now_done)}"
            mean = now_done["pairs"] / max(now_done["shards"] - now_done["quarantined_shards"], 1)
            if done:
                seconds = int(max(left * mean - here, 0) / rate)
                words += f", ETA {timedelta(seconds=seconds)}"
        print(words, file=sys.stderr, flush=True)

    def speed(self) -> str:
        """`, 12.3 images/s` of all processes since this one began; "" where none were made."""
        done = self._totals()["pairs"] - self._before if self.talks else 0
        seconds = max(time.monotonic() - self._begun, 1e-6)
        return f", {done / seconds:.1f} images/s" if done else ""

    def say(self, words: str) -> None:
        """A line that is always said."""
        if self.talks:
            print(words, file=sys.stderr, flush=True)

    def _totals(self) -> dict[str, Any]:
        return totals(self.ledger.entries(self.ledger.finished() & self.names))


def shares(counted: dict[str, Any]) -> str:
    """`kept 62 % of web and 81 % of synthetic texts`, of the kinds that there are."""
    parts = []
    for source in ("web", "synthetic"):
        counts = counted[source]
        if counts:
            share = 100 * counts.get(KEPT, 0) / sum(counts.values())
            parts.append(f"{share:.0f} % of {source}")
    return f"kept {' and '.join(parts)} texts" if parts else "no text to keep"


def nothing_kept(counted: dict[str, Any]) -> str:
    """What to do when not one text was kept, "" when one was or there was none."""
    reasons = Counter(counted["web"]) + Counter(counted["synthetic"])
    if not reasons or KEPT in reasons:
        return ""
    why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return (
        f"not one of {reasons.total()} texts was kept ({why}): if the filter has learned too "
        "little, tune it longer or on more clean pairs; if the limits are too high (rule.*), "
        "report.html shows the scores, and --from_table with others needs no model"
    )
