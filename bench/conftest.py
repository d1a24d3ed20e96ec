"""What every suite gets: the plan, the record that it fills, and timing in turns."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bench.interleaved import LEAST_SECONDS, Interleaved, Side, timed
from bench.plan import Plan, plan
from bench.record import Record
from bench.replayed import replayed
from bench.sides import Program, ProgramFailed, Remote, apart
from engine.runtime import keep_memory

Compare = Callable[..., dict[str, list[float]]]
Start = Callable[..., dict[str, Side]]


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
    # As every run on a CPU begins; it makes all sides of this process faster.
    if config.getoption("hardware") == "cpu":
        keep_memory()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """What went wrong in another process, without the way to it in this one."""
    try:
        return (yield)
    except ProgramFailed as failed:
        pytest.fail(str(failed), pytrace=False)


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
def start(plan: Plan) -> Iterator[Start]:
    """Starts programs and gives their sides by name: on a CPU in processes of their own."""
    with contextlib.ExitStack() as stack:

        def run(*programs: Program) -> dict[str, Side]:
            # Those of a GPU share this one: what decides is there, and the same for all.
            if plan.device.type == "cpu":
                return stack.enter_context(apart(*programs))
            return {name: side for one in programs for name, side in one.sides().items()}

        yield run


@pytest.fixture
def compare(benchmark: pytest.FixtureRequest, plan: Plan, record: Record) -> Compare:
    """Time sides in turns, the plan's number of rounds; seconds a call by side."""

    def run(
        name: str, sides: dict[str, Side], least_seconds: float = LEAST_SECONDS
    ) -> dict[str, list[float]]:
        wait = torch.cuda.synchronize if plan.device.type == "cuda" else lambda: None
        timer = Interleaved(
            {
                side: work.seconds if isinstance(work, Remote) else timed(work, wait)
                for side, work in sides.items()
            },
            least_seconds,
        )
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
