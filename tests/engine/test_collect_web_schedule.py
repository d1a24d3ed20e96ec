"""When a host is asked again: after its pause, by a clock that goes on where the schedule waits."""

import pytest

from engine.collect.web import schedule as scheduling
from engine.collect.web.schedule import Schedule
from engine.collect.web.url import parse_url
from engine.collect.web.visit import Job

# Seconds.
START, DELAY = 100.0, 5.0


class Clock:
    """Time that passes only while a schedule waits for it.

    Args:
        schedule: of eight connections a host.
    """

    def __init__(self, schedule: Schedule, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.schedule = START, schedule
        monkeypatch.setattr(scheduling.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(schedule._changed, "wait", self.wait)

    def wait(self, seconds: float | None) -> None:
        assert seconds is not None, "waits for a request that nobody makes"
        self.now += seconds

    def taken(self, count: int) -> list[tuple[str, float]]:
        """Hosts of the next requests, and when they are made."""
        jobs = [(self.schedule.take(), self.now - START) for _ in range(count)]
        return [(job.url.host, moment) for job, moment in jobs if job is not None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    schedule = Schedule(8, DELAY)
    for row, host in enumerate(("a", "a", "a", "b")):
        schedule.add(Job(row, parse_url(f"http://{host}.test/{row}")))
    return Clock(schedule, monkeypatch)


def test_requests_to_a_host_begin_apart(clock: Clock) -> None:
    assert clock.taken(4) == [("a.test", 0.0), ("b.test", 0.0), ("a.test", 5.0), ("a.test", 10.0)]


def test_a_host_is_left_alone_as_long_as_it_asks_for(clock: Clock) -> None:
    assert clock.taken(2) == [("a.test", 0.0), ("b.test", 0.0)]
    clock.schedule.done("a.test", 30.0)
    assert clock.taken(1) == [("a.test", 30.0)]


def test_a_shorter_pause_ends_no_longer_one(clock: Clock) -> None:
    assert clock.taken(3)[2] == ("a.test", 5.0)
    clock.schedule.done("a.test", 30.0)
    clock.schedule.done("a.test", 1.0)
    assert clock.taken(1) == [("a.test", 35.0)]
