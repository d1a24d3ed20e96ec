"""Kills writers of checkpoints and looks at what they leave; a program of its own, see `forked`.

    tests.checkpoint_chaos FOLDER random|every|together COUNT

`random` kills after random times, `every` before each file operation in turn (Python's audit
events), `together` lets that many writers share the folder and kills none. Prints JSON.
"""

import json
import os
import random
import signal
import sys
import time
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
    for step in range(first, first + 1000):
        checkpoint.write(folder, step, contents(step), {"value": step})
        os.write(report, f"{step}\n".encode())
        if step % 3 == 0:
            checkpoint.write(folder, step, contents(step), {"value": step})
        checkpoint.prune(folder, keep_last=2, keep_every=0)


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


def one_writer(folder: Path, first: int, at: int | None, seconds: float) -> int:
    """Fork a writer, see it killed; returns the last step that it reported as saved."""
    listening, report = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(listening)
        if at is not None:
            kill_myself_at(at)
        save_forever(folder, first, report)
        os._exit(0)
    os.close(report)
    if at is None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
    with os.fdopen(listening) as lines:
        saved = lines.read().split()
    return int(saved[-1]) if saved else 0


def kill_in_turn(folder: Path, mode: str, kills: int) -> dict[str, object]:
    """Kill writers one after the other; after each, the newest checkpoint must load."""
    chance = random.Random(0)
    newest, torn, backwards, unreadable = 0, 0, 0, 0
    for number in range(kills):
        at = number if mode == "every" else None
        reported = one_writer(folder, newest + 1, at, chance.uniform(0.0, 0.12))
        torn += any(path.name.endswith((".tmp", ".replaced")) for path in folder.iterdir())
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
    left = [path.name for path in folder.iterdir() if path.name.endswith((".tmp", ".replaced"))]
    print(json.dumps({**figures, "left": left}))
