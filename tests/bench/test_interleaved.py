"""Timing in turns: order, calls a reading, medians and ratios, with a clock that only we move."""

import pytest

from bench.interleaved import LEAST_SECONDS, Interleaved, Reading, Side, Spread, ratio, timed


class Clock:
    """Seconds that pass only when a side runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[str] = []

    def side(self, name: str, seconds: float) -> Side:
        def run() -> None:
            self.now += seconds
            self.ran.append(name)

        return run

    def timed(self, side: Side) -> Reading:
        return timed(side, clock=lambda: self.now)


def test_who_begins_moves_on_every_round() -> None:
    clock = Clock()
    timer = Interleaved({name: clock.timed(clock.side(name, 1.0)) for name in "abc"})
    timer.warm_up()
    clock.ran.clear()
    for _ in range(4):
        timer.round()
    assert "".join(clock.ran) == "abc" + "bca" + "cab" + "abc"
    assert timer.seconds == {name: [1.0] * 4 for name in "abc"}


def test_short_sides_are_called_often_enough_for_a_reading_and_counted_once() -> None:
    clock = Clock()
    timer = Interleaved({"short": clock.timed(clock.side("short", 0.001))})
    timer.warm_up()
    clock.ran.clear()
    timer.round()
    assert len(clock.ran) == round(LEAST_SECONDS / 0.001)
    assert timer.seconds["short"] == [pytest.approx(0.001)]


def test_a_first_call_that_is_slow_does_not_shorten_the_readings() -> None:
    clock, seconds = Clock(), iter([0.04] + [0.001] * 1000)
    timer = Interleaved({"a": clock.timed(lambda: clock.side("a", next(seconds))())})
    timer.warm_up()
    clock.ran.clear()
    timer.round()
    assert len(clock.ran) == 50


def test_the_device_is_waited_for_before_each_reading_of_the_clock() -> None:
    clock, queued = Clock(), [0.0]

    def launch() -> None:
        queued[0] += 2.0

    def synchronise() -> None:
        clock.now, queued[0] = clock.now + queued[0], 0.0

    timer = Interleaved({"gpu": timed(launch, synchronise, lambda: clock.now)})
    timer.warm_up()
    timer.round()
    assert timer.seconds["gpu"] == [2.0]


def test_a_ratio_is_the_median_over_rounds_with_quartiles() -> None:
    # The machine is three times slower in the second round: the ratio does not notice.
    found = ratio([2.0, 6.0, 2.2, 1.8, 2.0], [1.0, 3.0, 1.0, 1.0, 1.0])
    assert found == Spread(2.0, 2.0, 2.0, 5)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 1)
