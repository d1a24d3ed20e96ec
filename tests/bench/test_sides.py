"""Programs in processes of their own: turns, their own C library, errors, and none left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.interleaved import LEAST_SECONDS, Interleaved
from bench.machine import ROOT
from bench.sides import Program, ProgramFailed, apart
from tests import bench_sides

# What a shell starts in the background ignores Ctrl-C, and so do all that it starts.
HANGS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from bench.sides import Program, apart
from tests import bench_sides
if __name__ == "__main__":
    with apart(Program("slow", bench_sides.says, ("slow", bench_sides.hangs))) as sides:
        sides["slow"]()
"""
SUITE = """
from bench.sides import Program
from tests import bench_sides
def test_first(start):
    start(Program("lost", bench_sides.says, ("lost", bench_sides.{what})))["lost"]()
"""


def saying(what: Callable[[], object]) -> Program:
    """A program with a side `it`."""
    return Program("what is tried", bench_sides.says, ("it", what))


def test_one_process_a_program_and_one_of_them_at_work(tmp_path: Path) -> None:
    log, seconds = tmp_path / "log", 2 * LEAST_SECONDS
    programs = [
        Program(names[0], bench_sides.at_work, (names, seconds, log)) for names in ("ab", "c")
    ]
    with apart(*programs) as sides:
        timer = Interleaved({name: side.seconds for name, side in sides.items()})
        timer.warm_up()
        log.unlink()
        for _ in range(3):
            timer.round()
    rows = [line.split() for line in log.read_text().splitlines()]
    assert "".join(name for name, *_ in rows) == "abc" + "bca" + "cab"
    processes = {name: process for name, process, *_ in rows}
    assert processes["a"] == processes["b"] != processes["c"]
    assert len({str(os.getpid()), *processes.values()}) == 3
    times = [float(at) for *_, began, ended in rows for at in (began, ended)]
    assert times == sorted(times)
    assert all(took >= seconds for row in timer.seconds.values() for took in row)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="another C library")
def test_a_program_that_keeps_freed_memory_does_so_alone() -> None:
    programs = [Program(name, bench_sides.memory, (name, name == "ours")) for name in ("ours", "x")]
    with apart(*programs) as sides:
        grown = {name: side() for name, side in sides.items()}
    assert grown["ours"] > 0.9 * bench_sides.BLOCK
    assert grown["x"] < 0.1 * bench_sides.BLOCK


def test_what_a_side_gives_comes_back_as_numbers() -> None:
    with apart(saying(bench_sides.tensor)) as sides:
        assert sides["it"]() == [[0, 1], [2, 3]]


def test_an_error_comes_with_its_traceback() -> None:
    with apart(saying(bench_sides.raises)) as sides, pytest.raises(ProgramFailed) as failed:
        sides["it"].seconds(1)
    for part in ("what is tried", "in raises", "ValueError: a batch of nothing"):
        assert part in str(failed.value)


def test_so_does_one_before_there_are_sides() -> None:
    wrong = Program("what is tried", bench_sides.says, ("no function",))
    with pytest.raises(ProgramFailed, match="Traceback(.|\n)*TypeError"), apart(wrong):
        pass


def test_a_killed_process_is_said_in_one_line() -> None:
    with apart(saying(bench_sides.dies)) as sides:
        # Found gone while it works, and when it is asked again.
        for _ in range(2):
            with pytest.raises(ProgramFailed) as failed:
                sides["it"]()
            assert "process of what is tried has ended (SIGKILL" in str(failed.value)
            assert "\n" not in str(failed.value)


@pytest.mark.parametrize(("what", "lines"), [("dies", ["SIGKILL"]), ("raises", ["ValueError"])])
def test_the_suite_shows_that_and_nothing_of_its_own(
    tmp_path: Path, what: str, lines: list[str]
) -> None:
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE.format(what=what))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "bench.conftest", "--preset", "tiny"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(suite)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and "1 failed" in done.stdout
    assert all(line in done.stdout for line in lines)
    assert "bench/conftest.py" not in done.stdout and "sides.py:" not in done.stdout


def is_alive(process: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(HANGS)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    child = int(parent.stdout.readline())
    if how == signal.SIGINT:
        # As a terminal sends Ctrl-C: to all processes of the group.
        os.killpg(parent.pid, how)
    else:
        parent.send_signal(how)
    errors = parent.communicate(timeout=60)[1]
    limit = time.monotonic() + 60
    while is_alive(child) and time.monotonic() < limit:
        time.sleep(0.01)
    assert not is_alive(child)
    # Only the parent says that it was interrupted.
    assert errors.count("KeyboardInterrupt") == (how == signal.SIGINT)
