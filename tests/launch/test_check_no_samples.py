"""`check.py` and shards in which there is not one sample: an error, as it is to the run."""

import tarfile
from pathlib import Path

import pytest

from engine.data.index import build_index, store_index
from engine.data.shard_writer import add_members
from tests.check_runs import look, make_good
from tests.shards import picture


@pytest.mark.parametrize("indexed", [False, True], ids=["no index", "index"])
@pytest.mark.parametrize("key", ["", "/data/0"], ids=["empty", "never read"])
def test_shards_without_a_sample_are_an_error(tmp_path: Path, key: str, indexed: bool) -> None:
    place, shard = make_good(tmp_path), tmp_path / "none.tar"
    with tarfile.open(shard, "w") as tar:
        if key:
            add_members(tar, key, [("png", picture(0)), ("txt", b"a thing")])
    if indexed:
        store_index(build_index(shard))
    found = {one.name: one for one in look(place, f"--data.train={shard}")}
    expected = ["index_missing"] * (not indexed) + ["samples_unread"] * bool(key)
    assert sorted(found) == sorted([*expected, "data_missing"])
    assert found["data_missing"].severity == "error"
