"""Programs in processes of their own that import nothing: forked from one that has it all loaded.

DeepSpeed remembers the process group of its first run, so programs that train cannot follow each
other in the process of the tests; and loading it takes longer than a tiny run.
"""

import importlib
import multiprocessing
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from launch.cli import run_main
from tests.ranks import environment, free_port

SERVER = multiprocessing.get_context("forkserver")
# The last one DeepSpeed loads with its first optimizer, and PyTorch's compiler with it.
MUON = "deepspeed.runtime.zero.muon.muon_optimizer"
SERVER.set_forkserver_preload(["tests.forked", "engine.bootstrap.rounds", "engine.stages", MUON])
# As the runtime sets it before DeepSpeed is loaded.
os.environ.setdefault("DS_ACCELERATOR", "cpu")


@dataclass(frozen=True)
class Running:
    """A process and the file that takes what it says."""

    process: BaseProcess
    log: Path

    def end(self, timeout: float = 240) -> tuple[int, str]:
        """Wait for it: its exit code, or minus the signal, and what it said."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"still running after {timeout:g} s: {self.log.read_text()}")
        return self.process.exitcode, self.log.read_text()


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
        process = SERVER.Process(target=_run, args=arguments)
        process.start()
        started.append(Running(process, own))
    return started


def run(program: str, words: Sequence[object], log: Path, ranks: int = 1) -> list[tuple[int, str]]:
    """Run `main` of a module once a rank: exit codes and what was said."""
    return [running.end() for running in start(program, words, log, ranks)]


def _run(program: str, words: list[str], log: Path, given: dict[str, str]) -> None:
    with log.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.update(given)
    sys.argv = [program.rpartition(".")[2] + ".py", *words]
    run_main(importlib.import_module(program).main)
