"""Kills, stops and crowds captioning-and-filtering processes; a program of its own, see `forked`.

    tests.capfilt_chaos WORLD OUTPUT random|every|together|stopped|published COUNT SEED

`random` kills one of two processes or both, at random times and before a random one of their file
operations; `every` kills a process before each of its file operations in turn, or every SEED-th of
them; `together` lets that many processes share the folder; `stopped` has one suspend itself in the
middle of a shard until another has made all; `published` is `every` with finished files going to
OUTPUT.there by URL. Prints JSON at its end; the output must be that of an undisturbed run.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from engine.capfilt.config import CapFiltConfig
from engine.capfilt.run import CapFilt
from engine.runtime import Runtime
from engine.training.signals import StopRequest
from launch.cli import parse
from tests.at_file import signal_myself
from tests.capfilt_runs import words
from tests.checkpoint_chaos import kill_myself_at

# Fewer file operations than two shards take.
OF_TWO_SHARDS = 60


def start(
    config: CapFiltConfig, rank: int, world: int, prepare: Callable[[], None] = lambda: None
) -> int:
    """Fork a process of the run, which may prepare what happens to it."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        prepare()
        process = CapFilt(config, Runtime(rank, world, torch.device("cpu")), StopRequest())
        code = process.run()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    """Exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_at_random(config: CapFiltConfig, kills: int, seed: int) -> list[int]:
    """Two processes, one or both of which are killed and started again, over and over.

    Times alone may miss them all, on a machine that is faster or has just been asleep. So each
    also dies before one of its operations: of three shards one of the two makes at least two, if it
    lives.
    """
    chance, codes = random.Random(seed), []
    for _ in range(kills):
        pids = [
            start(config, rank, 2, partial(kill_myself_at, chance.randrange(OF_TWO_SHARDS)))
            for rank in range(2)
        ]
        time.sleep(chance.uniform(0.0, 1.0))
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
        death = partial(kill_myself_at, step * (len(codes) + 1))
        codes.append(ended(start(config, 0, 1, death)))
    return codes


def stop_one(config: CapFiltConfig) -> list[int]:
    """The first process is suspended with its shard half written; it wakes up when all is done."""
    half = "*/.work/pairs_00000@*/pairs_00000.parquet"
    slow = start(config, 0, 1, partial(signal_myself, signal.SIGSTOP, half, 1))
    _, status = os.waitpid(slow, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
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

    config = parse(CapFiltConfig, words(world, output, *more), description="", examples="")
    if mode == "random":
        codes = kill_at_random(config, count, seed)
    elif mode in ("every", "published"):
        codes = kill_at_every(config, count, seed)
    elif mode == "together":
        codes = [ended(pid) for pid in [start(config, 0, 1) for _ in range(count)]]
    else:
        codes = stop_one(config)
    last = ended(start(config, 0, 1))
    print(json.dumps({"codes": codes, "last": last}))
