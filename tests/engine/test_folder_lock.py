"""The lock of a folder: one writer, and none once the writer is gone."""

import errno
import fcntl
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import ConfigError
from engine.folder_lock import LOCK, holder, open_lock, sign, try_lock
from engine.share import Share
from engine.training.run_folder import locked

# A run with a process that loads data for it, which does not notice that the run is killed.
WRITER = """
import os, sys, time
from pathlib import Path
from engine.folder_lock import open_lock, try_lock
with open_lock(Path(sys.argv[1])) as lock:
    assert try_lock(lock)
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def test_a_killed_writer_leaves_no_lock_to_those_it_forked(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        child = int(writer.stdout.readline())
        try:
            with open_lock(tmp_path) as lock:
                assert not try_lock(lock)
            writer.kill()
            writer.wait()
            os.kill(child, 0)
            with open_lock(tmp_path) as lock:
                assert try_lock(lock)
        finally:
            os.kill(child, signal.SIGKILL)


def test_who_has_a_lock_is_said(tmp_path: Path) -> None:
    assert holder(tmp_path) == ""
    with open_lock(tmp_path) as lock:
        (tmp_path / LOCK).write_text("a longer line of an older version than what is written now")
        assert try_lock(lock)
        said = f" (process {os.getpid()} on {platform.node()})"
        assert holder(tmp_path) == said
        with pytest.raises(ConfigError) as refused, locked(tmp_path, Share()):
            pass
        assert str(refused.value) == f"{tmp_path}: another run is writing here{said}"
        sign(lock, "mark")
        assert holder(tmp_path) == said
        assert (tmp_path / LOCK).read_text().endswith(" mark")
    assert (tmp_path / LOCK).read_bytes() == b""
    for strange in (b"", b"0123abcd", b"\xff\x00"):
        (tmp_path / LOCK).write_bytes(strange)
        assert holder(tmp_path) == ""


def test_a_fork_takes_no_lock_from_its_parent(tmp_path: Path) -> None:
    with open_lock(tmp_path) as lock:
        assert try_lock(lock)
        child = os.fork()
        if child == 0:
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with open_lock(tmp_path) as other:
            assert not try_lock(other)
    with open_lock(tmp_path) as lock:
        assert try_lock(lock)


def test_a_disk_without_locks_is_written_on_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with open_lock(tmp_path) as lock:
        assert try_lock(lock)
    assert caplog.messages == [
        f"{tmp_path}/.lock: Function not implemented: nothing keeps a second run out"
    ]
