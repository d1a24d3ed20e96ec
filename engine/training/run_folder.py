"""A run's folder: one writer at a time, and the checkpoint that a run continues from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from engine import checkpoint
from engine.checkpoint import Checkpoint, CheckpointError
from engine.config import ConfigError, RunConfig
from engine.folder_lock import open_lock, try_lock
from engine.runtime import Runtime
from engine.training.drift import refuse_drift


@contextlib.contextmanager
def locked(folder: Path, here: Runtime) -> Iterator[None]:
    """Hold the folder while the context lasts; the main process does it for all. Collective.

    Raises:
        ConfigError: another run writes there; on every rank, so that none waits for the others.
    """
    with open_lock(folder) as lock:
        taken = here.is_main and not try_lock(lock)
        if here.any(taken):
            raise ConfigError(f"{folder}: another run is writing here")
        yield


def find_checkpoint(config: RunConfig, data_fingerprint: str) -> Checkpoint | None:
    """What `resume` means for this run: a verified checkpoint, or None to start anew.

    Args:
        config: of the run.
        data_fingerprint: of its training pairs.

    Raises:
        ConfigError: resume is `none` but the folder holds a run, or names no checkpoint.
        CheckpointError: damaged, of other settings, or of other data.
    """
    folder = Path(config.output_dir)
    found = folder / "checkpoints"
    if config.resume == "none":
        if (folder / "config.yaml").exists() or checkpoint.steps(found):
            raise ConfigError(
                f"{folder} holds a run already: choose another output_dir, or leave resume at "
                "auto to continue it"
            )
        return None
    if config.resume == "auto":
        path = checkpoint.newest_good(found)
        if path is None and checkpoint.steps(found):
            raise CheckpointError(
                f"{found}: no checkpoint is whole: bring a copy of one back, or start anew in "
                "another output_dir"
            )
    else:
        path = Path(config.resume)
        if not path.is_dir():
            raise ConfigError(f"resume {path}: no such checkpoint folder")
    if path is None:
        return None
    loaded = checkpoint.read(path)
    if "config" not in loaded.state:
        raise CheckpointError(
            f"{path} holds weights but no run to continue: give it as model.checkpoint"
        )
    there = checkpoint.steps(found)
    later = [one.name for one in there if checkpoint.step_of(one) > loaded.step]
    if later and config.resume != "auto":
        # The newest are kept: what this run saves would be the first to go.
        raise ConfigError(
            f"{folder} holds later checkpoints than {path} ({later[-1]}): choose another "
            "output_dir, or leave resume at auto to continue from the newest"
        )
    refuse_drift(loaded.state["config"], config, str(path))
    if loaded.state["data_fingerprint"] != data_fingerprint:
        raise CheckpointError(
            f"{path} was made on other data than {config.data.train}: give the same pairs, or "
            "start anew in another output_dir"
        )
    return loaded
