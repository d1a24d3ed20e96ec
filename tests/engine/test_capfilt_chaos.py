"""Captioning and filtering under violence: the outcome is byte for byte an undisturbed run's."""

import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.capfilt import folder
from tests.capfilt_runs import clean, make_world, outcome
from tests.forked import succeed

pytestmark = pytest.mark.xdist_group("capfilt_chaos")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = make_world(tmp_path_factory.mktemp("world"))
    ended = clean(world, world / "undisturbed")
    assert ended.code == 0, ended.err
    return world


def chaos(world: Path, output: Path, mode: str, count: int, seed: int = 0) -> dict:
    words, log = (world, output, mode, count, seed), Path(f"{output}.log")
    (said,) = succeed("tests.capfilt_chaos", words, log)
    figures = json.loads(said.splitlines()[-1])
    assert figures["last"] == 0, said
    there = Path(f"{output}.there") if mode == "published" else output
    found, expected = outcome(there), outcome(world / "undisturbed")
    if mode == "published":
        # A place by URL has no folders without files.
        expected = {name: digest for name, digest in expected.items() if digest}
        found = {name: digest for name, digest in found.items() if digest}
    assert found == expected
    assert not list((output / ".work" / "leases").iterdir())
    assert not list((output / ".work").glob("pairs_*"))
    return figures


def test_killed_a_few_times(world: Path, tmp_path: Path) -> None:
    figures = chaos(world, tmp_path / "out", "every", 4, seed=25)
    assert figures["codes"].count(-9) >= 2


def test_killed_while_files_go_away_by_url(world: Path, tmp_path: Path) -> None:
    figures = chaos(world, tmp_path / "out", "published", 4, seed=30)
    assert figures["codes"].count(-9) >= 2


@pytest.mark.slow
def test_killed_before_every_fifth_file_operation(world: Path, tmp_path: Path) -> None:
    figures = chaos(world, tmp_path / "out", "every", 50, seed=5)
    assert figures["codes"].count(-9) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random(world: Path, tmp_path: Path, seed: int) -> None:
    figures = chaos(world, tmp_path / "out", "random", 5, seed)
    assert set(figures["codes"]) <= {0, -9}
    assert -9 in figures["codes"]


def test_launches_at_once_share_the_work(world: Path, tmp_path: Path) -> None:
    assert chaos(world, tmp_path / "out", "together", 3)["codes"] == [0, 0, 0]


@pytest.mark.slow
def test_a_suspended_process_loses_its_shard_and_does_no_harm(world: Path, tmp_path: Path) -> None:
    assert chaos(world, tmp_path / "out", "stopped", 1)["codes"] == [0, 0]


@contextlib.contextmanager
def small_files_only(limit: int) -> Iterator[None]:
    """No file may grow beyond `limit` bytes: the disk says no in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_nothing_half(world: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    with small_files_only(8192):
        full = clean(world, output)
    assert full.code == 2
    assert "the disk is full, or its files may grow no larger (ulimit -f)" in full.err
    assert "make room and start again" in full.err
    assert [path.name for path in (output / ".work").iterdir()] == ["leases"]
    assert not list((output / "shards").iterdir())
    assert not list((output / ".work" / "leases").iterdir())
    assert clean(world, output).code == 0
    assert outcome(output) == outcome(world / "undisturbed")


def test_too_little_room_is_said_before_writing(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in (world / "data").glob("pairs_00000*"):
        (data / path.name).write_bytes(path.read_bytes())
    # More than any disk has.
    monkeypatch.setattr(folder, "MORE", 1e18)
    ended = clean(world, tmp_path / "out", "--data.train", data)
    assert ended.code == 2
    assert "the disk is full" in ended.err
    assert "it needs about" in ended.err
    assert not list((tmp_path / "out" / "ledger").iterdir())
