"""Programs in processes of their own that import nothing: forked from one that has it all loaded.

DeepSpeed remembers the process group of its first run, so programs that train cannot follow each
other in the process of the tests; and loading it takes longer than a tiny run.
"""

import atexit
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from launch.cli import run_main
from tests.ranks import environment, free_port

SERVER = multiprocessing.get_context("forkserver")
# Loaded late by a run: the last one that DeepSpeed loads with its first optimizer, and PyTorch's
# compiler with it; and event files.
LATE = ("deepspeed.runtime.zero.muon.muon_optimizer", "torch.utils.tensorboard")
SERVER.set_forkserver_preload(["tests.forked", "engine.bootstrap.rounds", "engine.stages", *LATE])
# As the runtime sets it before DeepSpeed is loaded.
os.environ.setdefault("DS_ACCELERATOR", "cpu")
# Seconds; together less than what a test is given, so that it fails with what the ranks said. One
# whose neighbour has failed finds it gone at once, if it ever met it.
TO_COME_SO_FAR, TO_END, AFTER_A_FAILURE = 300.0, 600.0, 120.0


@dataclass(frozen=True)
class Running:
    """A process and the file that takes what it says."""

    process: BaseProcess
    log: Path

    def until(self, reached: Callable[[], bool], timeout: float = TO_COME_SO_FAR) -> None:
        """Wait until it has come so far."""
        limit = time.monotonic() + timeout
        while not reached():
            if time.monotonic() > limit or not self.process.is_alive():
                self.process.kill()
                raise AssertionError(f"it did not come so far: {self.log.read_text()}")
            time.sleep(0.002)

    def end(self, timeout: float = TO_END) -> tuple[int, str]:
        """Wait for it: its exit code, or minus the signal, and what it said."""
        return end([self], timeout)[0]


def start(program: str, words: Sequence[object], log: Path, ranks: int = 1) -> list[Running]:
    """Start `main` of a module once a rank.

    Args:
        program: name of the module.
        words: behind its name.
        log: file for what rank 0 says; other ranks add their number to its name.
        ranks: processes.
    """
    port, started = free_port(), []
    for rank in range(ranks):
        own = log.with_name(f"{log.name}.{rank}") if rank else log
        given = environment(rank, ranks, port) if ranks > 1 else {"OMP_NUM_THREADS": "1"}
        arguments = (program, [str(word) for word in words], own, given)
        own.write_text("")
        process = SERVER.Process(target=_run, args=arguments)
        process.start()
        started.append(Running(process, own))
    return started


def end(started: Sequence[Running], timeout: float = TO_END) -> list[tuple[int, str]]:
    """Wait for all ranks: exit codes, or minus the signal, and what they said.

    One that hangs, or still waits for another one that has failed, ends in an error with what all
    of them said.
    """
    limit, waiting = time.monotonic() + timeout, {one.process.sentinel: one for one in started}
    while waiting and (left := limit - time.monotonic()) > 0:
        for sentinel in wait(list(waiting), left):
            process = waiting.pop(sentinel).process
            process.join()
            if process.exitcode:
                limit = min(limit, time.monotonic() + AFTER_A_FAILURE)
    for one in waiting.values():
        one.process.kill()
    said = [one.log.read_text() for one in started]
    assert not waiting, "\n".join(["still running, and was killed:", *said])
    return [(one.process.exitcode, text) for one, text in zip(started, said, strict=True)]


def run(program: str, words: Sequence[object], log: Path, ranks: int = 1) -> list[tuple[int, str]]:
    """Run `main` of a module once a rank: exit codes and what was said."""
    return end(start(program, words, log, ranks))


def succeed(program: str, words: Sequence[object], log: Path, ranks: int = 1) -> list[str]:
    """Run `main` of a module once a rank: what was said by ranks that all end with 0."""
    ended = run(program, words, log, ranks)
    assert [code for code, _ in ended] == [0] * ranks, ended
    return [said for _, said in ended]


@atexit.register
def _leave_none() -> None:
    """Of a test that failed before it waited for them; Python itself would wait for ever."""
    for process in multiprocessing.active_children():
        process.kill()


def _run(program: str, words: list[str], log: Path, given: dict[str, str]) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(given)
    # For what is loaded already the environment comes too late.
    torch.set_num_threads(1)
    sys.argv = [program.rpartition(".")[2] + ".py", *words]
    run_main(importlib.import_module(program).main)
