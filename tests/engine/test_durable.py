"""A file is there whole, as it was before, or not at all."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import RunConfig
from engine.durable import write_whole


def _full(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "facts.json", b"old")
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "facts.json", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert (tmp_path / "facts.json").read_bytes() == b"old"


def test_a_runs_settings_are_written_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, config = tmp_path / "config.yaml", RunConfig(output_dir=str(tmp_path))
    config.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", _full)
    with pytest.raises(OSError, match="No space left"):
        replace(config, seed=7).save(path)
    assert [one.name for one in tmp_path.iterdir()] == ["config.yaml"]
    assert path.read_bytes() == before
