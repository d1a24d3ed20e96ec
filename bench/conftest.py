"""What every suite gets: the plan, the record that it fills, and timing in turns."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bench.interleaved import Interleaved, Side
from bench.plan import Plan, plan
from bench.record import Record
from bench.replayed import replayed
from engine.runtime import keep_memory

Compare = Callable[[str, dict[str, Side]], dict[str, list[float]]]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bench")
    group.addoption("--hardware", choices=["cpu", "gpu"], default="cpu")
    group.addoption("--quick", action="store_true")
    group.addoption("--preset", default="base")
    group.addoption("--part", type=Path, help="file that the findings go to")


def plan_of(config: pytest.Config) -> Plan:
    """The sizes that the command line asks for."""
    return plan(*(config.getoption(name) for name in ("hardware", "quick", "preset")))


def pytest_configure(config: pytest.Config) -> None:
    # As every run on a CPU begins; it makes all sides faster.
    if config.getoption("hardware") == "cpu":
        keep_memory()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "setting" in metafunc.fixturenames:
        steps = plan_of(metafunc.config).steps
        metafunc.parametrize("setting", steps, ids=[f"{name}-{count}" for name, count in steps])


@pytest.fixture(scope="session", name="plan")
def the_plan(pytestconfig: pytest.Config) -> Plan:
    """The sizes of this run."""
    return plan_of(pytestconfig)


@pytest.fixture(scope="session")
def session_record() -> Record:
    """What the session found so far."""
    return Record()


@pytest.fixture
def record(session_record: Record, pytestconfig: pytest.Config) -> Iterator[Record]:
    """The session's record, on disk after every test: a suite that dies keeps what it had."""
    torch.manual_seed(0)
    yield session_record
    if pytestconfig.getoption("part"):
        session_record.write(pytestconfig.getoption("part"))


@pytest.fixture
def compare(benchmark: pytest.FixtureRequest, plan: Plan, record: Record) -> Compare:
    """Time sides in turns, the plan's number of rounds; seconds a call by side."""

    def run(name: str, sides: dict[str, Side]) -> dict[str, list[float]]:
        wait = torch.cuda.synchronize if plan.device.type == "cuda" else lambda: None
        timer = Interleaved(sides, wait)
        timer.warm_up()
        benchmark.pedantic(timer.round, rounds=plan.rounds)
        benchmark.extra_info.update(timer.seconds)
        record.compare(name, timer.seconds)
        return timer.seconds

    return run


@pytest.fixture
def compare_kernels(compare: Compare, plan: Plan, record: Record) -> Compare:
    """`compare`, with all sides replayed on a GPU: work of a few kernels without its launches."""

    def run(name: str, sides: dict[str, Side]) -> dict[str, list[float]]:
        if plan.device.type == "cuda":
            sides = {
                side: replayed(work, lambda line, side=side: record.note(f"{name}, {side}: {line}"))
                for side, work in sides.items()
            }
        return compare(name, sides)

    return run
