"""Shards whose set is open: who reads them at once, how long indexes are held, what changes."""

import errno
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.data import index as index_module
from engine.data import shards as shards_module
from engine.data.index import ShardError, index_path, open_index
from engine.data.open_source import open_source
from engine.data.shards import Shards
from tests.shards import picture, write_shards


def test_threads_may_open_a_shard_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_shards(tmp_path / "data", 8, 8)
    plainly = os.open

    def slowly(*words: Any, **more: Any) -> int:
        number = plainly(*words, **more)
        time.sleep(random.random() / 100)
        return number

    wanted = [open_source(str(data)).read(n).image for n in range(8)]
    monkeypatch.setattr(os, "open", slowly)
    for _ in range(20):
        shards = Shards(sorted(data.glob("*.tar")))
        with ThreadPoolExecutor(8) as pool:
            assert [raw.image for raw in pool.map(shards.read, range(8))] == wanted


def test_indexes_that_are_not_read_any_more_are_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards_module, "TURN", 4)
    data = write_shards(tmp_path / "data", 40, 4)
    shards, asked = Shards(sorted(data.glob("*.tar")), open_index), Counter()
    monkeypatch.setattr(
        shards, "_index_of", lambda path: (asked.update([path]), open_index(path))[1]
    )
    for number in range(40):
        assert shards.read(number).image == picture(number)
        assert len({*shards._now, *shards._before}) <= 4
    # A look a sample; the first index is there from the beginning.
    assert asked == Counter(shards.paths[1:])
    assert [len(index) for index in shards.indexes()] == [4] * 10
    assert len({*shards._now, *shards._before}) <= 8


@pytest.mark.parametrize("samples", [4, 50])
def test_a_window_of_many_shards_reads_each_index_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    monkeypatch.setattr(shards_module, "TURN", 4)
    data = write_shards(tmp_path / "data", 8 * samples, samples)
    shards, asked = Shards(sorted(data.glob("*.tar"))), Counter()
    monkeypatch.setattr(
        shards, "_index_of", lambda path: (asked.update([path]), open_index(path))[1]
    )
    for epoch in range(3):
        for number in random.Random(epoch).sample(range(len(shards)), len(shards)):
            assert shards.read(number).problem is None
    assert asked == Counter(shards.paths[1:])


def test_an_index_of_a_shard_that_was_replaced_meanwhile_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a purge, between taking the index away and putting the new shard in place."""
    (shard,), (other,) = (
        write_shards(tmp_path / name, count).glob("*.tar") for name, count in (("a", 3), ("b", 2))
    )
    digest = index_module._digest

    def late(file: BinaryIO) -> str:
        monkeypatch.setattr(index_module, "_digest", digest)
        other.replace(shard)
        return digest(file)

    index_path(shard).unlink(missing_ok=True)
    monkeypatch.setattr(index_module, "_digest", late)
    with pytest.raises(ShardError, match="was replaced while it was read"):
        open_index(shard)
    assert not index_path(shard).exists()
    assert len(open_index(shard)) == 2


@pytest.mark.parametrize("damage", ["other", "gone"])
def test_an_index_that_changes_while_its_set_is_open_is_a_bad_sample(
    tmp_path: Path, damage: str
) -> None:
    data = write_shards(tmp_path / "data", 8, 4)
    shards = Shards(sorted(data.glob("*.tar")))
    write_shards(tmp_path / "other", 4, 3)
    for path in (shards.paths[1], index_path(shards.paths[1])):
        path.unlink()
        if damage == "other":
            path.write_bytes((tmp_path / "other" / path.name.replace("1", "0")).read_bytes())
    assert [shards.read(number).problem for number in range(4)] == [None] * 4
    assert [shards.read(number).problem for number in range(4, 8)] == ["index_changed"] * 4


def test_shards_that_may_not_be_read_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs the tests may read anything."""
    shard = sorted(write_shards(tmp_path, 2).glob("*.tar"))[0]
    monkeypatch.setattr(index_module.os, "access", lambda *_: False)
    with pytest.raises(ShardError, match=f"{shard}: permission denied"):
        open_index(shard)


def test_more_shards_than_a_process_may_open(tmp_path: Path) -> None:
    """Each is read all the same, twice, and from threads; few are open at a time."""
    data = write_shards(tmp_path / "data", 200, 1)
    program = """
import os, resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from engine.data.shards import FILES, Shards
shards = Shards(sorted(Path(sys.argv[1]).glob("*.tar")))
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
with ThreadPoolExecutor(8) as pool:
    for _ in range(2):
        samples = list(pool.map(shards.read, range(200)))
        assert [sample.problem for sample in samples] == [None] * 200
        assert [sample.key for sample in samples] == [f"{n:05d}" for n in range(200)]
assert len(os.listdir("/proc/self/fd")) < 2 * FILES + 32
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, data], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_too_many_open_files_are_no_bad_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would take others in their place, and others again when it is repeated."""
    paths = sorted(write_shards(tmp_path, 8, 4).glob("*.tar"))

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for module, name in ((os, "open"), (index_module, "_file")):
        shards = Shards(paths)
        with monkeypatch.context() as patch:
            patch.setattr(module, name, refuse)
            with pytest.raises(OSError, match="Too many open files"):
                shards.read(5)
    assert shards.read(5).problem is None


def test_a_shard_that_goes_while_it_is_read_is_a_bad_sample(tmp_path: Path) -> None:
    shards = Shards(sorted(write_shards(tmp_path, 8, 4).glob("*.tar")))
    shards.index(1)
    shards.paths[1].unlink()
    found = [shards.read(number).problem for number in range(8)]
    assert found == [None] * 4 + ["unreadable_shard"] * 4


def test_an_index_of_more_samples_than_fit_is_not_read(tmp_path: Path) -> None:
    shard = sorted(write_shards(tmp_path, 3).glob("*.tar"))[0]
    table = pq.read_table(index_path(shard))
    facts = json.loads(table.schema.metadata[b"shard"])
    many = pa.concat_tables([table] * 1000).replace_schema_metadata(
        {"shard": json.dumps(facts | {"samples": 3000})}
    )
    pq.write_table(many, index_path(shard))
    with pytest.raises(ShardError, match="not a readable index"):
        open_index(shard)


def test_members_that_are_too_large_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = sorted(write_shards(tmp_path, 3).glob("*.tar"))[0]
    sizes = open_index(shard).places["image"][:, 1]
    assert sizes[1] < sizes[[0, 2]].max()
    monkeypatch.setattr(index_module, "MAX_BYTES", int(sizes[1]))
    built = index_module.build_index(shard)
    large = [f"{n:05d}" for n in range(3) if sizes[n] > sizes[1]]
    assert [one.key for one in built.unread] == large
    assert {one.reason for one in built.unread} == {"member_too_large"}
    assert len(built) == 3 - len(large)
