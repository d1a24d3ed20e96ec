"""Checkpoints on disk: safetensors and JSON, a hash for every file, whole or not there at all.

A checkpoint is written into a temporary folder, synced, and renamed; the manifest with the
hashes is the last file. What does not verify is never loaded.
"""

import errno
import json
import logging
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from engine.config import ConfigError

log = logging.getLogger(__name__)
NAME = re.compile(r"step_(\d{8,})")
MANIFEST, STATE = "manifest.json", "state.json"


class CheckpointError(ConfigError):
    """A checkpoint that cannot be written, is damaged, or does not fit the run."""


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
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    _require_space(folder, sum(t.nbytes for group in tensors.values() for t in group.values()))
    target = folder / f"step_{step:08d}"
    temporary = folder / f".step_{step:08d}.{os.getpid()}.tmp"
    try:
        temporary.mkdir()
        for stem, group in tensors.items():
            save_file(
                {k: v.contiguous() for k, v in group.items()}, temporary / f"{stem}.safetensors"
            )
        (temporary / STATE).write_text(json.dumps({**state, "step": step}, indent=1))
        hashes = {path.name: _hash(path) for path in sorted(temporary.iterdir())}
        for name in hashes:
            _sync(temporary / name)
        (temporary / MANIFEST).write_text(json.dumps({"xxh3_128": hashes}, indent=1))
        _sync(temporary / MANIFEST)
        _sync(temporary)
        if target.exists():
            replaced = folder / f".step_{step:08d}.{os.getpid()}.old.tmp"
            os.rename(target, replaced)
            os.rename(temporary, target)
            shutil.rmtree(replaced)
        else:
            os.rename(temporary, target)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(_disk_problem(folder, step, error)) from None
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed * 1.02 + (1 << 16):
        raise CheckpointError(
            f"checkpoint needs {needed / 1e6:.1f} MB in {folder}, {free / 1e6:.1f} MB are free: "
            "make room and start again, the last checkpoint is intact"
        )


def _disk_problem(folder: Path, step: int, error: Exception) -> str:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    full = full or "No space left" in str(error) or "too large" in str(error)
    what = "the disk is full" if full else " ".join(str(error).split())
    free = shutil.disk_usage(folder).free / 1e6
    return (
        f"checkpoint of step {step} could not be written to {folder}: {what} ({free:.1f} MB free); "
        "make room and start again, the last checkpoint is intact"
    )


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary folders of processes that are gone."""
    for path in folder.glob(".step_*.tmp"):
        owner = re.search(r"\.(\d+)\.(?:old\.)?tmp$", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _hash(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            state.update(block)
    return state.hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(path: Path) -> None:
    """Check every file of a checkpoint against the manifest.

    Raises:
        CheckpointError: names the file that is missing or damaged.
    """
    try:
        hashes = json.loads((path / MANIFEST).read_text())["xxh3_128"]
        names = dict(hashes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: no readable {MANIFEST}") from None
    for name, digest in names.items():
        if Path(name).name != name or not (path / name).is_file():
            raise CheckpointError(f"{path}: {name} is missing")
        if _hash(path / name) != digest:
            raise CheckpointError(f"{path}: {name} is damaged, its hash differs from the manifest")
    if STATE not in names:
        raise CheckpointError(f"{path}: {MANIFEST} does not list {STATE}")


def read(path: Path, *, only: tuple[str, ...] | None = None) -> Checkpoint:
    """Verify and load a checkpoint.

    Args:
        path: its folder.
        only: stems of the tensor files to load; None loads all.

    Raises:
        CheckpointError: damaged or incomplete; names the file.
    """
    verify(path)
    state = json.loads((path / STATE).read_text())
    files = [f for f in sorted(path.glob("*.safetensors")) if only is None or f.stem in only]
    tensors = {file.stem: load_file(file) for file in files}
    return Checkpoint(path, int(state["step"]), tensors, state)


def steps(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first; whether they are good is not looked at."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if NAME.fullmatch(p.name)), key=lambda p: p.name)


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; a damaged one is passed over with a warning."""
    for path in reversed(steps(folder)):
        try:
            verify(path)
        except CheckpointError as error:
            log.warning("%s; using the one before", error)
            continue
        return path
    return None


def prune(folder: Path, keep_last: int, keep_every: int) -> None:
    """Delete all but the newest `keep_last` and those at multiples of `keep_every` steps."""
    found = steps(folder)
    for path in found[:-keep_last]:
        if keep_every and int(NAME.fullmatch(path.name)[1]) % keep_every == 0:
            continue
        # A folder that loses its manifest first can never pass for a checkpoint.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)


def check_keys(expected: set[str], got: set[str], what: str) -> None:
    """Refuse tensors that are missing or left over.

    Raises:
        CheckpointError: names up to three of each.
    """
    for kind, names in (("lacks", expected - got), ("has unexpected", got - expected)):
        if names:
            some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
            raise CheckpointError(f"{what} {kind} {len(names)} tensors: {some}")
