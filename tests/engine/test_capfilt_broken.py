"""Weights and disks that fail in the middle of a run: one line, and nothing half."""

import errno
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from engine import checkpoint
from engine.capfilt import shard_job
from engine.capfilt.folder import OutputFolder
from tests.capfilt_runs import clean, make_world, outcome

pytestmark = pytest.mark.xdist_group("capfilt_broken")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def test_weights_whose_numbers_are_broken_stop_it(world: Path, tmp_path: Path) -> None:
    found = checkpoint.read(world / "filter")
    weights = found.tensors["model"]
    # Numbers that products overflow with.
    weights["itm_head.weight"] = torch.full_like(weights["itm_head.weight"], 3e38)
    checkpoint.write_as(tmp_path / "broken", 0, {"model": weights}, found.state)
    ended = clean(world, tmp_path / "out", "--filter", tmp_path / "broken")
    assert ended.code == 2
    assert "the filter's scores are not finite" in ended.err
    assert not list((tmp_path / "out" / "ledger").iterdir())
    assert not list((tmp_path / "out" / ".work" / "leases").iterdir())


@pytest.mark.parametrize(
    ("name", "role", "number", "said"),
    [
        ("visual_encoder.norm.weight", "captioner", 3e38, "the model's states are not finite"),
        ("visual_encoder.norm.weight", "filter", 3e38, "the model's states are not finite"),
        (
            "text_decoder.bert.embeddings.LayerNorm.bias",
            "captioner",
            math.nan,
            "text_decoder.bert.emb",
        ),
        ("itm_head.bias", "filter", math.inf, "itm_head.bias is not finite"),
    ],
)
def test_broken_weights_are_told_by_their_role(
    world: Path, tmp_path: Path, name: str, role: str, number: float, said: str
) -> None:
    found = checkpoint.read(world / role)
    weights = found.tensors["model"]
    weights[name] = torch.full_like(weights[name], number)
    checkpoint.write_as(tmp_path / "broken", 0, {"model": weights}, found.state)
    ended = clean(world, tmp_path / "out", f"--{role}", tmp_path / "broken")
    assert ended.code == 2
    place = tmp_path / "broken"
    # What is seen while weights are loaded has no role, but a place.
    given = f"{role} {place}" if math.isfinite(number) else place
    assert f"error: {given}: {said}" in ended.err
    assert not list(tmp_path.glob("out/ledger/*"))


@pytest.mark.parametrize("part", ["ledger", "shards", ".work/leases"])
def test_a_folder_that_goes_away_is_one_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    output, write = tmp_path / "out", shard_job.write_cleaned

    def removed(*given: object) -> int:
        shutil.rmtree(output / part)
        return write(*given)

    monkeypatch.setattr(shard_job, "write_cleaned", removed)
    ended = clean(world, output)
    assert ended.code == 2
    line = f"error: output_dir {output}: "
    assert line in ended.err and "start again" in ended.err and "Traceback" not in ended.err


def test_a_disk_that_fails_once_costs_no_shard(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it did not give is put aside, and made at the next start: the file is as it was."""
    assert clean(world, tmp_path / "whole").code == 0
    read, failed = os.pread, []

    def once(number: int, *words: int) -> bytes:
        if not failed and os.readlink(f"/proc/self/fd/{number}").endswith("pairs_00001.tar"):
            failed.append(number)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(number, *words)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", once)
        ended = clean(world, tmp_path / "out")
    assert failed
    assert (ended.code, "1 shards" in ended.err) == (0, True)
    assert not (tmp_path / "out" / "shards" / "pairs_00001.tar").exists()
    assert clean(world, tmp_path / "out").code == 0
    assert outcome(tmp_path / "out") == outcome(tmp_path / "whole")


def test_desks_of_other_shards_are_left_alone(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    folder.make()
    with folder.desk("x@2") as other, folder.desk("x") as desk:
        assert other.is_dir() and desk.is_dir()


def test_only_what_is_left_of_finished_shards_is_cleared(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.make()
    with folder.desk("b") as other, folder.desk("a@2") as alike:
        left = tmp_path / "out" / ".work" / "a@1.tmp"
        left.mkdir()
        for name in ("a@1", "b@1", "a@2@1"):
            (folder.leases / name).touch()
        folder.clear({"a"})
        assert other.is_dir() and alike.is_dir() and not left.exists()
        assert sorted(path.name for path in folder.leases.iterdir()) == ["a@2@1", "b@1"]
