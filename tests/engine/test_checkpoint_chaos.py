"""Checkpoints under violence: kills at any moment, full disks, several writers."""

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from engine import checkpoint
from engine.checkpoint import CheckpointError
from tests.forked import succeed


def chaos(folder: Path, mode: str, count: int) -> dict:
    words, log = (folder, mode, count), folder.with_name(f"{folder.name}.log")
    (said,) = succeed("tests.checkpoint_chaos", words, log)
    return json.loads(said.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "kills"), [("random", 25), ("every", 90)])
def test_killed_writers_leave_the_newest_loadable(tmp_path: Path, mode: str, kills: int) -> None:
    figures = chaos(tmp_path, mode, kills)
    assert figures["unreadable"] == 0
    assert figures["backwards"] == 0
    assert not figures["left"]
    # The kills did hit writers in the middle of their work, and the work went on.
    assert figures["torn"] >= kills // 5
    assert figures["newest"] >= 2


def test_writers_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    figures = chaos(tmp_path, "together", 3)
    assert figures == {"failed": 0, "whole": [*range(1, 31), 1000], "left": False}


def weights(megabytes: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"model": {"weight": torch.ones(int(megabytes * 250_000))}}


@contextlib.contextmanager
def small_files_only(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: the disk says no in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A filesystem of 6 MB, or None where this user may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def assert_only_the_first_is_left(folder: Path) -> None:
    assert {p.name for p in folder.iterdir()} == {".lock", "step_00000001"}
    assert checkpoint.read(checkpoint.newest_good(folder)).step == 1


def test_a_disk_that_refuses_in_the_middle_leaves_the_last_one(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, 1, weights(0.5), {})
    with small_files_only(1 << 20), pytest.raises(CheckpointError) as problem:
        checkpoint.write(tmp_path, 2, weights(3), {})
    assert str(tmp_path) in str(problem.value)
    assert "the disk is full" in str(problem.value)
    assert "\n" not in str(problem.value)
    assert_only_the_first_is_left(tmp_path)


def test_too_little_room_is_said_before_writing(small_disk: Path | None, tmp_path: Path) -> None:
    # Where nothing can be mounted, weights larger than the real disk play the same part.
    folder = (small_disk or tmp_path) / "checkpoints"
    checkpoint.write(folder, 1, weights(2), {})
    if small_disk is None:
        free = shutil.disk_usage(folder).free
        huge = {"model": {"weight": torch.zeros(1).expand(free // 2)}}
    else:
        huge = weights(5)
    with pytest.raises(CheckpointError) as problem:
        checkpoint.write(folder, 2, huge, {})
    assert "checkpoint needs" in str(problem.value)
    assert f"MB in {folder}" in str(problem.value)
    assert "MB are free" in str(problem.value)
    assert_only_the_first_is_left(folder)


def test_a_disk_that_fills_up_meanwhile(
    small_disk: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = (small_disk or tmp_path) / "checkpoints"
    checkpoint.write(folder, 1, weights(0.5), {})
    if small_disk is None:
        with small_files_only(1 << 20), pytest.raises(CheckpointError, match="the disk is full"):
            checkpoint.write(folder, 2, weights(3), {})
        assert_only_the_first_is_left(folder)
        return
    look = checkpoint._require_space

    def look_then_lose_the_room(where: Path, needed: int) -> None:
        """Somebody else takes the room between the look and the write."""
        look(where, needed)
        with pytest.raises(OSError) as full, (small_disk / "other").open("wb") as other:
            while True:
                other.write(bytes(1 << 16))
                other.flush()
        assert full.value.errno == errno.ENOSPC

    monkeypatch.setattr(checkpoint, "_require_space", look_then_lose_the_room)
    with pytest.raises(CheckpointError, match=r"the disk is full \(0.0 MB free\)"):
        checkpoint.write(folder, 2, weights(3), {})
    assert_only_the_first_is_left(folder)
    (small_disk / "other").unlink()
    monkeypatch.undo()
    assert checkpoint.read(checkpoint.write(folder, 2, weights(3), {})).step == 2


def test_a_folder_that_refuses_writing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written to"):
        checkpoint.write(tmp_path / "file" / "checkpoints", 1, weights(0.1), {})


def test_other_runs_folders_are_not_cleaned(tmp_path: Path) -> None:
    (tmp_path / ".mine.tmp").mkdir()
    checkpoint.write_as(tmp_path / "model", 0, weights(0.1), {})
    checkpoint.write(tmp_path, 1, weights(0.1), {})
    assert (tmp_path / ".mine.tmp").is_dir()
    assert checkpoint.read(tmp_path / "model").step == 0


def test_the_lock_does_not_outlive_the_writer_in_a_forked_child(tmp_path: Path) -> None:
    waiting, release = os.pipe()
    with checkpoint._only_writer(tmp_path):
        pid = os.fork()
        if pid == 0:
            os.close(release)
            # Until the other end is closed.
            os.read(waiting, 1)
            os._exit(0)
    try:
        with (tmp_path / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        checkpoint.write(tmp_path, 1, weights(0.1), {})
    finally:
        os.close(release)
        os.waitpid(pid, 0)
        os.close(waiting)
