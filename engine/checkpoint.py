"""Checkpoints on disk: safetensors and JSON, a hash for every file, whole or not there at all.

A checkpoint is written into a temporary folder, synced, and renamed; the manifest with the
hashes is the last file. What does not verify is never loaded. Writers of one folder take turns, so
whatever is temporary when a writer starts was left behind by a dead one.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine.durable import sync
from engine.manifest import MANIFEST, STATE, CheckpointError, seal, verify

__all__ = ["MANIFEST", "STATE", "CheckpointError", "sync", "verify"]

log = logging.getLogger(__name__)
# A replaced checkpoint stays readable under its second name until the new one is in place.
NAME = re.compile(r"step_(\d{8,})(\.replaced)?")
FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk is full for this user (quota)",
    errno.EFBIG: "the disk is full, or its files may grow no larger (ulimit -f)",
}


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        path: its folder.
        step: optimizer steps done.
        tensors: by file stem (`model`, `optimizer`), then by name.
        state: what `state.json` holds.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]


def write(
    folder: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]
) -> Path:
    """Write `folder/step_XXXXXXXX`, replacing one of the same step.

    Args:
        folder: of the run's checkpoints.
        step: optimizer steps done.
        tensors: by file stem, then by name.
        state: JSON-serialisable facts.

    Raises:
        CheckpointError: not enough space, or the disk refuses; nothing partial is left and the
            checkpoints before stay as they are.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)
        with _only_writer(folder):
            return write_as(folder / f"step_{step:08d}", step, tensors, state)
    except OSError as error:
        raise CheckpointError(_disk_problem(folder, step, error)) from None


def write_as(
    target: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]
) -> Path:
    """Write a checkpoint as the folder `target`; see `write`."""
    folder, temporary = target.parent, target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(folder, sum(t.nbytes for g in tensors.values() for t in g.values()))
        _fill(temporary, tensors, {**state, "step": step})
        _put_in_place(temporary, target)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(_disk_problem(folder, step, error)) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


@contextlib.contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Wait for other writers of the folder, then remove what dead ones left."""
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError:
            # Some network filesystems have no locks: nobody can tell leftovers from living ones.
            yield
            return
        try:
            _remove_leftovers(folder)
            yield
        finally:
            # Said aloud: a process forked meanwhile would keep the lock of a file merely closed.
            fcntl.flock(lock, fcntl.LOCK_UN)


def _remove_leftovers(folder: Path) -> None:
    for path in folder.glob(".step_*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob("step_*.replaced"):
        if path.with_suffix("").exists():
            shutil.rmtree(path, ignore_errors=True)


def _fill(folder: Path, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
    folder.mkdir()
    for stem, group in tensors.items():
        save_file(_unshared(group), folder / f"{stem}.safetensors")
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    seal(folder)


def _put_in_place(temporary: Path, target: Path) -> None:
    replaced = target.with_name(f"{target.name}.replaced")
    if target.exists():
        # At every moment one of the two is there under a name that `steps` finds.
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(target, replaced)
    os.rename(temporary, target)
    sync(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def _unshared(group: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors with memory of their own: safetensors refuses tied ones."""
    seen: set[int] = set()
    own = {}
    for name, tensor in group.items():
        tensor = tensor.detach().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if memory in seen else tensor
        seen.add(memory)
    return own


def _require_space(folder: Path, needed: int) -> None:
    needed = int(needed * 1.02) + (1 << 16)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CheckpointError(
            f"checkpoint needs {needed / 1e6:.1f} MB in {folder}, {free / 1e6:.1f} MB are free: "
            f"make room and start again{intact(folder)}"
        )


def _disk_problem(folder: Path, step: int, error: Exception) -> str:
    said, number = str(error), getattr(error, "errno", None)
    full = [words for one, words in FULL.items() if one == number or f"os error {one}" in said]
    what = full[0] if full else " ".join(said.split())
    with contextlib.suppress(OSError):
        what += f" ({shutil.disk_usage(folder).free / 1e6:.1f} MB free)"
    advice = "; make room and start again" if full else ""
    return (
        f"checkpoint of step {step} could not be written to {folder}: {what}{advice}"
        f"{intact(folder)}"
    )


def intact(folder: Path) -> str:
    """What is left after a checkpoint could not be written there, as the end of a line."""
    return "; the last checkpoint is intact" if steps(folder) else "; there was none before"


def read(path: Path, *, only: tuple[str, ...] | None = None) -> Checkpoint:
    """Verify and load a checkpoint.

    Args:
        path: its folder.
        only: stems of the tensor files to verify and load; None takes all.

    Raises:
        CheckpointError: damaged or incomplete; names the file.
    """
    names = verify(path, only=only)
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        files = [path / name for name in names if name.endswith(".safetensors")]
        tensors = {file.stem: load_file(file) for file in files}
        return Checkpoint(path, int(state["step"]), tensors, state)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        problem = " ".join(str(error).split())
        raise CheckpointError(f"{path}: holds what no checkpoint holds: {problem}") from None


def steps(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first; whether they are good is not looked at."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if NAME.fullmatch(p.name)), key=_order)


def step_of(path: Path) -> int:
    """The step that a checkpoint's name says."""
    return _order(path)[0]


def _order(path: Path) -> tuple[int, bool]:
    name = NAME.fullmatch(path.name)
    return int(name[1]), name[2] is None


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are passed over with one warning each."""
    damaged = []
    found = next((p for p in reversed(steps(folder)) if not _damage(p, damaged)), None)
    for problem in damaged:
        log.warning("%s; %s", problem, f"using {found.name}" if found else "no other is whole")
    return found


def _damage(path: Path, problems: list[str]) -> bool:
    try:
        verify(path)
    except CheckpointError as error:
        problems.append(str(error))
        return True
    return False


def prune(folder: Path, keep_last: int, keep_every: int) -> None:
    """Delete checkpoints but the newest `keep_last` and those at multiples of `keep_every` steps.

    Nothing is deleted as long as none of those that stay verifies.

    Raises:
        ValueError: keep_last is not positive.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last is {keep_last}: at least one checkpoint must stay")
    found = steps(folder)
    doomed = [p for p in found[:-keep_last] if not (keep_every and step_of(p) % keep_every == 0)]
    staying = [path for path in reversed(found) if path not in doomed]
    if not doomed or all(_damage(path, []) for path in staying):
        return
    with _only_writer(folder):
        for path in doomed:
            # Renamed first: a folder that is being deleted never passes for a checkpoint.
            temporary = folder / f".{path.name}.{os.getpid()}.tmp"
            with contextlib.suppress(OSError):
                os.rename(path, temporary)
            shutil.rmtree(temporary, ignore_errors=True)


def check_keys(expected: set[str], got: set[str], what: str) -> None:
    """Refuse tensors that are missing or left over.

    Raises:
        CheckpointError: names up to three of each.
    """
    problems = []
    for kind, names in (("lacks", expected - got), ("has unexpected", got - expected)):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            problems.append(f"{kind} {len(names)} tensors: {some}")
    if problems:
        raise CheckpointError(f"{what} {'; '.join(problems)}")
