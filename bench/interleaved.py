"""Times of several ways to do the same, taken in turns so that a slow moment hits all of them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Side = Callable[[], object]
# Seconds that so many calls took.
Reading = Callable[[int], float]
LEAST_SECONDS = 0.05
MOST_CALLS = 2000


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    value: float
    q1: float
    q3: float
    repeats: int

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Of at least one value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3, len(values))


def timed(
    side: Side,
    synchronise: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Reading:
    """A side with the clock.

    Args:
        side: one unit of work.
        synchronise: waits for the device; called before every reading of the clock.
        clock: seconds.
    """

    def read(calls: int) -> float:
        synchronise()
        began = clock()
        for _ in range(calls):
            side()
        synchronise()
        return clock() - began

    return read


@dataclass
class Interleaved:
    """Runs sides in turns.

    Attributes:
        readings: of the sides, by name.
        least_seconds: that a reading takes: several calls where one takes less.
        seconds: by side, one entry a round: of one call.
    """

    readings: Mapping[str, Reading]
    least_seconds: float = LEAST_SECONDS
    seconds: dict[str, list[float]] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)
    _rounds: int = 0

    def warm_up(self) -> None:
        """Run every side untimed, then set how many calls of it make a reading long enough."""
        for name, read in self.readings.items():
            first = read(1)
            # What a first call allocates and looks up once would make the count too small.
            once = first if first >= self.least_seconds else read(1)
            calls = self.least_seconds / max(once, self.least_seconds / MOST_CALLS)
            self._calls[name] = max(1, round(calls))
            self.seconds[name] = []

    def round(self) -> None:
        """One reading of every side; who begins moves on by one each round."""
        names = list(self.readings)
        start = self._rounds % len(names)
        for name in names[start:] + names[:start]:
            calls = self._calls[name]
            self.seconds[name].append(self.readings[name](calls) / calls)
        self._rounds += 1


def ratio(slower: list[float], faster: list[float]) -> Spread:
    """How many times faster the second side was: each round's two readings, then the median."""
    return Spread.of([a / b for a, b in zip(slower, faster, strict=True)])
