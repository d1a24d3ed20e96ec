"""Sides to try out with `bench.sides`: what they are made by has to be importable by name."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from bench.interleaved import Side
from bench.memory import status
from engine.runtime import keep_memory

BLOCK = 64 << 20


def at_work(names: tuple[str, ...], seconds: float, log: Path) -> dict[str, Side]:
    """Sides that take so long, and write down who works in which process from when to when."""

    def side(name: str) -> Side:
        def work() -> None:
            began = time.monotonic()
            time.sleep(seconds)
            with log.open("a") as file:
                file.write(f"{name} {os.getpid()} {began} {time.monotonic()}\n")

        return work

    return {name: side(name) for name in names}


def memory(name: str, keeps: bool) -> dict[str, Side]:
    """A side that takes and frees a block: bytes by which its process is larger then."""
    if keeps:
        keep_memory()

    def work() -> int:
        before = status("VmRSS")
        torch.ones(BLOCK, dtype=torch.uint8)
        return status("VmRSS") - before

    return {name: work}


def says(name: str, what: Callable[[], object]) -> dict[str, Side]:
    """A side that gives what a function gives."""
    return {name: what}


def tensor() -> torch.Tensor:
    """What a side may give."""
    return torch.arange(4).view(2, 2)


def raises() -> None:
    """An error within a side."""
    raise ValueError("a batch of nothing")


def dies() -> None:
    """As the kernel does it where memory ends."""
    os.kill(os.getpid(), signal.SIGKILL)


def hangs() -> None:
    """Work that nobody will wait for."""
    print(os.getpid(), flush=True)
    time.sleep(600)
