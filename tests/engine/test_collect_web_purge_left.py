"""What a purge must not leave behind, and what it refuses rather than half does."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.collect.web.folder import SETTINGS, SUMMARY, CollectionFolder
from engine.collect.web.journal import Journal, Outcome
from engine.collect.web.purge import purge
from engine.collect.web.robots import parse_robots
from engine.collect.web.shard_work import ShardWork
from engine.config import ConfigError
from engine.data.index import ShardError
from engine.data.purge import noted
from tests.hostile_web import hostile_server
from tests.shards import write_shards
from tests.web_collections import collect, pairs, reasons, write_list


def uids_of(folder: Path, *uids: str) -> Path:
    path = folder / "uids.txt"
    path.write_text("".join(f"{uid}\n" for uid in uids))
    return path


def test_a_link_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 6)
    (tmp_path / "links").mkdir()
    shard = next(data.glob("*.tar"))
    (tmp_path / "links" / shard.name).symlink_to(shard)
    before = shard.read_bytes()
    with pytest.raises(ShardError, match="is a link; name the shard itself"):
        purge(uids_of(tmp_path, "uid-1"), [str(tmp_path / "links")])
    assert (tmp_path / "links" / shard.name).is_symlink() and shard.read_bytes() == before


def test_a_collection_is_named_by_its_folder(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 6)
    (data / SETTINGS).write_text("{}")
    shard = next(data.glob("*.tar"))
    with pytest.raises(ConfigError, match="is part of a collection: name its folder"):
        purge(uids_of(tmp_path, "uid-1"), [str(shard)])


def test_journals_of_finished_shards_and_half_files_go(tmp_path: Path) -> None:
    folder = CollectionFolder(tmp_path / "web")
    folder.root.mkdir()
    with folder.locked():
        folder.begin({"a": 1})
        folder.finish(0, iter(()), [])
    for name in ("00000.journal", "00001.journal", "00001.partial"):
        (folder.work / name).write_bytes(b"pictures")
    (folder.root / ".00000.tar.ab.partial").write_bytes(b"pictures")
    with folder.locked():
        folder.begin({"a": 1})
    assert {path.name for path in folder.work.iterdir()} == {"00001.journal"}
    assert not list(folder.root.glob(".*.partial"))
    (folder.work / "00000.journal").write_bytes(b"pictures")
    (folder.work / "00001.partial").write_bytes(b"pictures")
    assert json.loads((folder.root / SETTINGS).read_text()) == {"a": 1}
    # What is not there yet will not come.
    assert purge(uids_of(tmp_path, "no such"), [str(folder.root)]) == 0
    assert [one["uid"] for one in noted(folder.root)] == ["no such"]
    assert not list(folder.work.iterdir())
    (folder.root / SUMMARY).write_text("{}")
    with pytest.raises(ConfigError, match="none of its 1 uids and URLs is in these shards"):
        purge(uids_of(tmp_path, "no such"), [str(folder.root)])


def test_a_row_that_is_refused_now_counts_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "00000.journal")
    journal.outcomes[3] = Outcome(3, "")
    work = ShardWork(0, [object(), object()], journal)
    work.refuse(3, "purged")
    assert (work.known, work.complete) == (1, False)
    work.refuse(4, "purged")
    assert work.complete


def test_a_file_of_many_names_costs_no_more() -> None:
    names = "".join(f"user-agent: x{number}\n" for number in range(9000))
    rules = "".join(f"allow: /{number}\n" for number in range(4000))
    found = parse_robots(f"user-agent: bot\n{names}crawl-delay: 2\n{rules}".encode(), "bot")
    assert found.delay == 2.0 and len(found.rules) > 100


def write_beside(data: Path, **columns: list) -> Path:
    """As img2dataset does: a row a URL, also of those that it could not fetch."""
    path = data / "pairs_00000.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_rows_beside_a_shard_go_with_its_pictures(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 6)
    rows = {
        "key": [f"{n:05d}" for n in range(7)],
        "caption": [f"the caption {n}" for n in range(7)],
    }
    path, keys = write_beside(data, **rows), lambda: pq.read_table(path)["key"].to_pylist()
    assert purge(uids_of(tmp_path, "uid-1", "uid-4"), [str(data)]) == 2
    assert keys() == [rows["key"][n] for n in (0, 2, 3, 5, 6)]
    assert b"the caption 4" not in path.read_bytes()
    after = path.read_bytes()
    purge(uids_of(tmp_path, "uid-1", "uid-4"), [str(data)])
    assert path.read_bytes() == after
    # As after a purge that was killed, or one from before side files were looked at.
    write_beside(data, **rows)
    purge(uids_of(tmp_path, "uid-1", "uid-4"), [str(data)])
    assert path.read_bytes() == after
    # A picture that was never fetched has a row all the same.
    write_beside(data, **rows, uid=[f"uid-{n}" for n in range(7)])
    purge(uids_of(tmp_path, "uid-6"), [str(data)])
    assert keys() == [rows["key"][n] for n in (0, 2, 3, 5)]


def test_rows_that_cannot_be_told_apart_are_said(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 6, per_shard=3)
    path = write_beside(data, caption=["a", "b", "c"])
    before = path.read_bytes()
    # It is not that shard's.
    assert purge(uids_of(tmp_path, "uid-4"), [str(data)]) == 1
    for _ in range(2):
        with pytest.raises(
            ShardError, match="1 tables are left .*00000.parquet: has no column key"
        ):
            purge(uids_of(tmp_path, "uid-1"), [str(data)])
        assert path.read_bytes() == before
    assert b"uid-1" not in (data / "pairs_00000.tar").read_bytes()


def test_pictures_go_by_their_urls(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 6)
    urls = [f"http://example.org/{n}" for n in range(7)]
    path = write_beside(data, key=[f"{n:05d}" for n in range(7)], url=urls)
    assert purge(uids_of(tmp_path, urls[2], urls[6], "uid-4"), [str(data)]) == 2
    assert [one["uid"] for one in noted(data)] == ["uid-2", "uid-4"]
    assert pq.read_table(path)["url"].to_pylist() == [urls[n] for n in (0, 1, 3, 5)]
    assert b"example.org" not in (data / "purged.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=f"none of its 1 uids and URLs .*: {urls[2]}"):
        purge(uids_of(tmp_path, urls[2]), [str(data)])


def test_a_collection_knows_the_uids_of_its_urls(tmp_path: Path) -> None:
    with hostile_server() as server:
        listed = pairs(server, 30)
        source, out = write_list(tmp_path / "l.csv", listed), tmp_path / "out"
        collect(source, out)
        given = uids_of(tmp_path, listed[3][0])
        assert purge(given, [str(out)]) == 1
        assert reasons(collect(source, out)) == {"": 29, "purged": 1}
        (out / "summary.json").unlink()
        with pytest.raises(ConfigError, match="is not finished, and what has a URL would be"):
            purge(given, [str(out)])
