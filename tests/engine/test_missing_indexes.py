"""A first start on many processes: no shard is indexed by more than one of them."""

from pathlib import Path

import pytest
import torch

from engine.data.index import index_path
from engine.data.missing_indexes import make_missing_indexes
from engine.data.open_source import open_source
from engine.data.tar_members import ShardError
from engine.runtime import Runtime
from engine.share import ALONE, Share
from tests.forked import succeed
from tests.runs import losses, write_config
from tests.shards import write_shards


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Five shards, none of which has an index."""
    found = sorted(write_shards(tmp_path / "data", 50, 10).glob("*.tar"))
    assert len(found) == 5
    for shard in found:
        index_path(shard).unlink()
    return found


def test_processes_share_them_out(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    met = []
    monkeypatch.setattr(Share, "meet", lambda *_: met.append(1))
    make_missing_indexes(str(shards[0].parent), Share(Runtime(1, 3, torch.device("cpu"))))
    assert [index_path(shard).exists() for shard in shards] == [False, True, False, False, True]
    make_missing_indexes([str(shard) for shard in shards[:3]], Share(ALONE))
    assert [index_path(shard).exists() for shard in shards] == [True, True, True, False, True]
    assert len(met) == 2
    assert len(open_source(str(shards[0].parent))) == 50


def test_what_is_no_shard_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text("[]")
    make_missing_indexes(["", str(tmp_path / "pairs.json"), str(tmp_path / "none")], Share(ALONE))
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.json"]


def test_a_damaged_shard_is_named(shards: list[Path]) -> None:
    shards[3].write_bytes(b"rubbish" * 1000)
    with pytest.raises(ShardError, match="pairs_00003.tar"):
        make_missing_indexes(str(shards[0].parent), Share(ALONE))


def test_a_run_of_two_makes_all_of_them(shards: list[Path], tmp_path: Path) -> None:
    config = write_config(tmp_path, "run", shards[0].parent)
    words = ["--config", config, "--device", "cpu"]
    succeed("launch.pretrain", words, tmp_path / "log", ranks=2)
    assert all(index_path(shard).exists() for shard in shards)
    assert len(losses(tmp_path / "run")) == 4
