"""A run's folder: one writer at a time, and the checkpoint that a run continues from."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from engine import checkpoint
from engine.checkpoint import Checkpoint, CheckpointError
from engine.config import ConfigError, RunConfig, to_dict
from engine.differences import differences, flat
from engine.folder_lock import LOCK, holder, open_lock, sign, try_lock
from engine.share import Share
from engine.training.drift import refuse_drift

# A second between two.
LOOKS = 10


@contextlib.contextmanager
def locked(folder: Path, share: Share) -> Iterator[None]:
    """Hold the folder while the context lasts; the main process does it for all. Collective.

    Raises:
        ConfigError: another run writes there, it cannot be written, or it is not the same folder
            for all; on every rank, so that none waits for the others.
    """
    with contextlib.ExitStack() as held:
        with share.one_fate():
            lock = held.enter_context(open_lock(folder))
            if share.here.is_main and not try_lock(lock):
                raise ConfigError(f"{folder}: another run is writing here{holder(folder)}")
            if share.here.world_size > 1:
                _refuse_many(folder, lock, share)
        yield


def _refuse_many(folder: Path, lock: TextIO, share: Share) -> None:
    """What the first process writes into its lock all others read in theirs. Collective.

    Raises:
        ConfigError: one of them does not: nothing that is saved would be found there again.
    """
    mark = uuid.uuid4().hex if share.here.is_main else ""
    if mark:
        sign(lock, mark)
        os.fsync(lock.fileno())
    mark, *_ = share.meet(mark)
    # Network disks may show for seconds what was there before.
    for _ in range(LOOKS):
        if (folder / LOCK).read_text(encoding="utf-8", errors="replace").endswith(mark):
            return
        time.sleep(1)
    raise ConfigError(f"output_dir {folder}: put it on a disk that all machines share")


def agree(share: Share, config: RunConfig, step: int, data_fingerprint: str) -> None:
    """All processes are of one run; each may have files on a disk of its own. Collective.

    Args:
        share: of this process.
        config: of the run.
        step: that this process goes on from.
        data_fingerprint: of its training pairs.

    Raises:
        ConfigError: other checkpoints, pairs or settings somewhere; on every rank.
    """
    mine = step, data_fingerprint, flat(to_dict(config))
    first, *others = share.meet(mine)
    for rank, theirs in enumerate(others, 1):
        if theirs[0] != first[0]:
            raise ConfigError(
                f"{config.output_dir}: processes see different checkpoints; put output_dir on a "
                "disk that all machines share"
            )
        if apart := differences(first[2], theirs[2]):
            raise ConfigError(
                f"process {rank} was started with other settings than process 0 "
                f"({', '.join(apart)}): give all machines the same file and flags"
            )
        if theirs[1] != first[1]:
            raise ConfigError(
                f"data.train: process {rank} finds other pairs than process 0: give all machines "
                "the same ones"
            )


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
