"""Kills, stops and crowds captioning-and-filtering processes; a program of its own, see `forked`.

    tests.capfilt_chaos WORLD OUTPUT random|every|together|stopped|published COUNT SEED

`random` kills one of two processes after random times, `every` kills a process before each of its
file operations in turn, or every SEED-th of them, `together` lets that many processes share the
folder, `stopped` suspends one until another has taken its shard over, `published` is `every` with
finished files going to OUTPUT.there by URL. Prints JSON at its end; the output must be that of an
undisturbed run.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from engine.capfilt.config import CapFiltConfig
from engine.capfilt.run import CapFilt
from engine.runtime import Runtime
from engine.training.signals import StopRequest
from launch.cli import parse
from tests.capfilt_runs import words
from tests.checkpoint_chaos import kill_myself_at


def start(config: CapFiltConfig, rank: int, world: int, at: int | None = None) -> int:
    """Fork a process of the run; it dies right before its n-th file operation."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if at is not None:
            kill_myself_at(at)
        process = CapFilt(config, Runtime(rank, world, torch.device("cpu")), StopRequest())
        code = process.run()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_random(
    config: CapFiltConfig, undisturbed: CapFiltConfig, kills: int, seed: int
) -> list[int]:
    """Two processes, one or both of which are killed and started again, over and over.

    The times are parts of what one process needs alone on this machine: two that share the work
    are still at it at the first of them.
    """
    began = time.monotonic()
    assert ended(start(undisturbed, 0, 1)) == 0
    whole = time.monotonic() - began
    chance, codes = random.Random(seed), []
    for _ in range(kills):
        pids = [start(config, rank, 2) for rank in range(2)]
        time.sleep(whole * chance.uniform(0.02, 0.3))
        os.kill(chance.choice(pids), signal.SIGKILL)
        if chance.random() < 0.5:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        codes += [ended(pid) for pid in pids]
    return codes


def kill_at_every(config: CapFiltConfig, kills: int, step: int) -> list[int]:
    """One process at a time, killed `step` operations later each time, until one lives to its end.

    Later ones would find all complete, in fewer operations than it took to make the last of it.
    """
    codes: list[int] = []
    while len(codes) < kills and 0 not in codes:
        codes.append(ended(start(config, 0, 1, step * (len(codes) + 1))))
    return codes


def stop_one(config: CapFiltConfig, folder: Path) -> list[int]:
    """The first process is suspended with its shard in work; it wakes up when all is done."""
    slow = start(config, 0, 1)
    while not list(folder.glob(".work/leases/*@0")):
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(slow, signal.SIGSTOP)
    other = ended(start(config, 0, 1))
    os.kill(slow, signal.SIGCONT)
    return [other, ended(slow)]


def main() -> None:
    """Run one mode, finish the run undisturbed, and print how every process ended."""
    world, output = (Path(word) for word in sys.argv[1:3])
    mode, count, seed = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    more = ["--lease_seconds", "2" if mode == "stopped" else "20"]
    if mode == "published":
        more += ["--publish_to", f"file://{output}.there"]

    def run_in(folder: Path) -> CapFiltConfig:
        return parse(CapFiltConfig, words(world, folder, *more), description="", examples="")

    config = run_in(output)
    if mode == "random":
        codes = kill_at_random(config, run_in(Path(f"{output}.alone")), count, seed)
    elif mode in ("every", "published"):
        codes = kill_at_every(config, count, seed)
    elif mode == "together":
        codes = [ended(pid) for pid in [start(config, 0, 1) for _ in range(count)]]
    else:
        codes = stop_one(config, output)
    last = ended(start(config, 0, 1))
    print(json.dumps({"codes": codes, "last": last}))
