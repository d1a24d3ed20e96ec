"""Kills writers of checkpoints and looks at what they leave; a program of its own, see `forked`.

    tests.checkpoint_chaos FOLDER random|every|together COUNT

`random` kills at random moments, every fifth time surely with half a checkpoint; `every` before
each file operation in turn (Python's audit events); `together` lets that many writers share the
folder and kills none. Prints JSON.
"""

import itertools
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

from engine import checkpoint

OPERATIONS = ("open", "os.", "shutil.", "fcntl.")


def contents(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors that tell which step wrote them."""
    value = torch.full((64, 64), float(step))
    return {"model": {"weight": value}, "optimizer": {"exp_avg.weight": value}}


def is_whole(found: checkpoint.Checkpoint) -> bool:
    """Whether all of a checkpoint comes from its step."""
    values = [tensor for group in found.tensors.values() for tensor in group.values()]
    whole = len(values) == 2 and all(bool((value == found.step).all()) for value in values)
    return whole and found.state["value"] == found.step


def save_forever(folder: Path, first: int, report: int) -> None:
    """Write, tell the parent, write every third step again, prune, go on."""
    for step in itertools.count(first):
        checkpoint.write(folder, step, contents(step), {"value": step})
        os.write(report, f"{step}\n".encode())
        if step % 3 == 0:
            checkpoint.write(folder, step, contents(step), {"value": step})
        checkpoint.prune(folder, keep_last=2, keep_every=0)


def is_torn(folder: Path) -> bool:
    """Whether something half written lies there."""
    return any(path.name.endswith((".tmp", ".replaced")) for path in folder.iterdir())


def kill_myself_at(operation: int) -> None:
    """The writer dies right before its n-th file operation from now on."""
    count = 0

    def hook(event: str, _: tuple) -> None:
        nonlocal count
        if event.startswith(OPERATIONS):
            count += 1
            if count == operation + 1:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def one_writer(folder: Path, first: int, ends: Callable[[], None]) -> tuple[int, int]:
    """Fork a writer that goes on until it is killed: its process, and where it tells its steps.

    Args:
        folder: of the checkpoints.
        first: step.
        ends: called first; it may prepare the end.
    """
    listening, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(listening)
            ends()
            save_forever(folder, first, report)
        finally:
            os._exit(1)
    os.close(report)
    return pid, listening


def killed(pid: int, listening: int, told: bytes = b"") -> int:
    """See a writer killed; the last step that it reported as saved."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    with os.fdopen(listening, "rb") as lines:
        saved = (told + lines.read()).split()
    return int(saved[-1]) if saved else 0


def kill_at_random(folder: Path, first: int, chance: random.Random, torn: bool) -> int:
    """Kill a writer some moment after it has saved something; if so told, with half of more."""
    pid, listening = one_writer(folder, first, lambda: None)
    told = b"".join(os.read(listening, 1) for _ in range(len(f"{first}\n")))
    while True:
        time.sleep(chance.uniform(0.0, 0.03))
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        if not torn or is_torn(folder):
            break
        os.kill(pid, signal.SIGCONT)
    os.kill(pid, signal.SIGKILL)
    return killed(pid, listening, told)


def kill_in_turn(folder: Path, mode: str, kills: int) -> dict[str, object]:
    """Kill writers one after the other; after each, the newest checkpoint must load."""
    chance = random.Random(0)
    newest, torn, backwards, unreadable = 0, 0, 0, 0
    for number in range(kills):
        if mode == "every":
            ends = partial(kill_myself_at, number)
            reported = killed(*one_writer(folder, newest + 1, ends))
        else:
            reported = kill_at_random(folder, newest + 1, chance, number % 5 == 0)
        torn += is_torn(folder)
        found = checkpoint.newest_good(folder)
        if found is None:
            unreadable += bool(max(newest, reported))
            continue
        loaded = checkpoint.read(found)
        unreadable += not is_whole(loaded)
        backwards += loaded.step < max(newest, reported)
        newest = loaded.step
    checkpoint.write(folder, newest + 1, contents(newest + 1), {"value": newest + 1})
    return {"torn": torn, "newest": newest, "backwards": backwards, "unreadable": unreadable}


def write_together(folder: Path, writers: int) -> dict[str, object]:
    """Several writers at once, each with steps of its own and one step that all of them write."""
    children = []
    for writer in range(writers):
        pid = os.fork()
        if pid == 0:
            for step in [*range(1 + writer, 1 + 10 * writers, writers), 1000]:
                checkpoint.write(folder, step, contents(step), {"value": step})
            os._exit(0)
        children.append(pid)
    failed = [pid for pid in children if os.waitpid(pid, 0)[1]]
    found = [checkpoint.read(path) for path in checkpoint.steps(folder)]
    whole = sorted(loaded.step for loaded in found if is_whole(loaded))
    return {"failed": len(failed), "whole": whole}


def main() -> None:
    """Run one mode and print its figures."""
    folder, mode, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    together = mode == "together"
    figures = write_together(folder, count) if together else kill_in_turn(folder, mode, count)
    print(json.dumps({**figures, "left": is_torn(folder)}))
