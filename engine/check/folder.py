"""Faults of the run folder: another run in it, no permission, no room."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from engine import checkpoint
from engine.check.setup import Setup
from engine.check.weights import damage, newest
from engine.checkpoint import CheckpointError
from engine.findings import Finding, error, refusals, warning
from engine.folder_lock import holder
from engine.training.drift import refuse_drift
from engine.training.run_folder import find_checkpoint


def writable(setup: Setup) -> Iterator[Finding]:
    """The run folder."""
    yield from unwritable(setup.config.output_dir)


def unwritable(output_dir: str) -> Iterator[Finding]:
    """A folder that cannot be written or made, for the nearest one above it that is there."""
    folder = Path(output_dir)
    if os.path.isfile(folder):
        yield error("output_file", f"output_dir {folder} is a file: name a folder")
        return
    there = existing(folder)
    if not there.is_dir():
        line = f"output_dir {folder}: {there} is a file: name a folder below another one"
        yield error("output_file", line)
    elif not os.access(there, os.W_OK | os.X_OK, effective_ids=True):
        line = f"output_dir {folder}: {there} cannot be written: choose another, or its rights"
        yield error("output_unwritable", line)


def other_run(setup: Setup) -> Iterator[Finding]:
    """What is in the folder already, against what is about to run."""
    config, folder = setup.config, Path(setup.config.output_dir)
    if _is_held(folder):
        yield error(
            "output_in_use",
            f"output_dir {folder}: another run is writing here{holder(folder)}: wait for it, or "
            "choose another",
        )
    if config.resume == "none":
        yield from refusals("output_taken", lambda: find_checkpoint(config, ""))
        return
    if config.resume != "auto" and not Path(config.resume).is_dir():
        yield from refusals("resume", lambda: find_checkpoint(config, ""), "give its folder")
        return
    path = newest(folder) if config.resume == "auto" else Path(config.resume)
    if path is None:
        yield from _other_settings(setup, folder)
        return
    broken = list(damage("resume", path))
    before = checkpoint.steps(folder / "checkpoints")[:-1] if config.resume == "auto" else []
    if broken and before:
        line = f"{broken[0].line}; as it is, the run continues {before[-1].name}"
        yield warning(broken[0].name, line)
        path, broken = before[-1], list(damage("resume", before[-1]))
    yield from broken
    if broken:
        return
    facts = checkpoint.read(path, only=()).state
    if "config" not in facts:
        yield from refusals("resume", lambda: find_checkpoint(config, ""))
        return
    ours = setup.config
    drift = list(
        refusals("output_other_run", lambda: refuse_drift(facts["config"], ours, str(path)))
    )
    yield from drift
    marked = setup.train.fingerprint if setup.train and config.data.weights is None else None
    if not drift and marked and facts.get("data_fingerprint") != marked:
        yield error(
            "output_other_data",
            f"{path} was made on other data than {config.data.train}: give the same pairs, or "
            "start anew in another output_dir",
        )
    steps = setup.steps
    if not drift and steps is not None and facts["step"] >= steps:
        yield warning(
            "output_complete",
            f"output_dir {folder} is complete at step {facts['step']} of {steps}: there is nothing "
            "to do; raise train.max_steps or train.epochs, or choose another",
        )


def _other_settings(setup: Setup, folder: Path) -> Iterator[Finding]:
    """The settings of a run that has saved no checkpoint yet."""
    settings = folder / "config.yaml"
    if not settings.is_file():
        return
    try:
        saved = yaml.safe_load(settings.read_text(encoding="utf-8"))
        refuse_drift(saved, setup.config, str(settings))
    except CheckpointError as problem:
        yield error("output_other_run", str(problem))
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError):
        line = f"{settings}: not readable as a run's settings: choose another output_dir"
        yield error("output_other_run", line)


def room(setup: Setup) -> Iterator[Finding]:
    """Free space against the checkpoints that will be kept: computed, not guessed."""
    if setup.built is None:
        return
    folder, keep, size = (
        Path(setup.config.output_dir),
        setup.config.checkpoint,
        checkpoint_bytes(setup),
    )
    there = existing(folder)
    if not there.is_dir():
        return
    kept = min(keep.keep_last, _saves(setup))
    if keep.keep_every and setup.steps:
        kept += setup.steps // keep.keep_every
    # A checkpoint is written beside those that stay.
    needed = size * (kept + 1)
    used = sum(f.stat().st_size for f in folder.glob("checkpoints/*/*") if f.is_file())
    free = shutil.disk_usage(there).free + used
    if needed <= free:
        return
    line = (
        f"output_dir {folder}: {kept + 1} checkpoints of {size / 1e9:.3g} GB take "
        f"{needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free: make room, or lower "
        "checkpoint.keep_last and checkpoint.keep_every"
    )
    yield error("disk", line) if free < 2 * size else warning("disk", line)


def checkpoint_bytes(setup: Setup) -> int:
    """Of one checkpoint: every stored name of the weights, momentum, queues, and two moments."""
    built = setup.built
    assert built is not None
    stored = [*built.model.state_dict().values()]
    stored += built.momentum.state_dict().values() if built.momentum is not None else []
    moments = 2 * sum(parameter.nbytes for parameter in built.model.parameters())
    return sum(tensor.nbytes for tensor in stored) + moments


def _saves(setup: Setup) -> int:
    """Checkpoints that the run writes."""
    every = setup.config.checkpoint.every
    return -(-(setup.steps or 1) // every) if every else 1


def existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if os.path.exists(path))


def _is_held(folder: Path) -> bool:
    """Whether a running process holds the folder's lock."""
    try:
        with (folder / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


CHECKS = (writable, other_run, room)
