"""Pictures taken out again: nothing of them stays, all else stays byte for byte, twice is once."""

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.collect.web.purge import purge
from engine.config import ConfigError
from engine.data import purge as purging
from engine.data.index import index_path
from engine.data.open_source import open_source
from engine.data.pack import verify_shards
from engine.data.shards import Shards
from engine.data.tar_members import ShardError
from tests.hostile_answers import pattern
from tests.hostile_web import hostile_server
from tests.shards import write_shards
from tests.web_collections import (
    collect,
    output_of,
    pairs,
    reasons,
    samples,
    settings,
    traces,
    write_list,
)


def uids_file(folder: Path, *uids: str) -> Path:
    (folder / "uids.txt").write_text("\n".join(uids) + "\n\n")
    return folder / "uids.txt"


def test_pictures_leave_shards_of_any_kind(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", 25, per_shard=10)
    before, files = samples(folder), output_of(folder)
    out = ["uid-0", "uid-4", "uid-9", "uid-21"]
    given = uids_file(tmp_path, *out, "uid-99")
    assert purge(given, [str(folder)]) == 4
    assert samples(folder) == {uid: s for uid, s in before.items() if uid not in out}
    assert verify_shards([str(folder)]).samples == 21
    after = output_of(folder)
    # A shard without one of them is not touched.
    assert after["pairs_00001.tar"] == files["pairs_00001.tar"]
    noted = [json.loads(line) for line in (folder / "purged.jsonl").read_text().splitlines()]
    # Nothing of a picture: the hashes are of all that was in the shard before and is after.
    assert noted[0].keys() == {"uid", "shard", "key", "before", "after"}
    assert list(noted[0].values())[:3] == ["uid-0", "pairs_00000.tar", "00000"]
    assert [one["uid"] for one in noted] == out
    assert purge(given, [str(folder)]) == 0
    assert output_of(folder) == after


def test_a_shard_may_lose_all_its_pictures(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", 6, per_shard=3)
    assert purge(uids_file(tmp_path, "uid-0", "uid-1", "uid-2"), [str(folder)]) == 3
    assert verify_shards([str(folder)]).samples == 3
    assert len(open_source(str(folder))) == 3


@pytest.mark.parametrize("step", ["unlink", "replace", "store_index"])
def test_a_purge_that_is_killed_is_made_good_by_the_next(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path / "data", 12, per_shard=6)
    whole = write_shards(tmp_path / "whole", 12, per_shard=6)
    given = uids_file(tmp_path, "uid-1", "uid-8")
    purge(given, [str(whole)])

    def dies(*_: object, **__: object) -> None:
        os._exit(9)

    child = os.fork()
    if child == 0:
        target = {"unlink": Path, "replace": os, "store_index": purging}[step]
        monkeypatch.setattr(target, step, dies)
        purge(given, [str(folder)])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    # Readers find the old samples or the new ones, never half of them.
    assert len(open_source(str(folder))) in (11, 12)
    purge(given, [str(folder)])
    assert {n: d for n, d in output_of(folder).items() if "partial" not in n} == output_of(whole)


def test_a_damaged_shard_is_left_as_it_is_and_the_others_are_done(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", 12, per_shard=6)
    shard = folder / "pairs_00000.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ConfigError, match=r"1 of 2 shards are left as they were: .*00000.tar"):
        purge(uids_file(tmp_path, "uid-1", "uid-8"), [str(folder)])
    assert shard.read_bytes() == content
    assert index_path(shard).exists()
    assert len(Shards([folder / "pairs_00001.tar"])) == 5


def test_what_is_purged_from_a_collection_leaves_no_trace_and_does_not_come_back(
    tmp_path: Path,
) -> None:
    with hostile_server() as server:
        listed = pairs(server, 50)
        source, out = write_list(tmp_path / "l.csv", listed), tmp_path / "out"
        table = collect(source, out)
        gone = [table[number]["uid"] for number in (0, 7, 45)]
        assert purge(uids_file(tmp_path, *gone), [str(out)]) == 3
        for number in (0, 7, 45):
            assert not traces(out, *listed[number], pattern(number))
        # The shards of the second half are lost: what is fetched anew is not what was taken out.
        (out / "table" / "00002.parquet").unlink()
        server.asked.clear()
        table = collect(source, out)
        assert reasons(table) == {"": 47, "purged": 3}
        assert len(server.asked) == 9
        assert set(samples(out)) == {row["uid"] for row in table if row["kept"]}


def test_purging_needs_uids_and_a_collection_that_nobody_writes(tmp_path: Path) -> None:
    with hostile_server() as server:
        source, out = write_list(tmp_path / "l.csv", pairs(server, 3)), tmp_path / "out"
        refused, given = [], uids_file(tmp_path, "x")

        def meanwhile(_: object) -> None:
            with pytest.raises(ConfigError, match="another run is writing here"):
                purge(given, [str(out)])
            refused.append(1)

        server.on_request = meanwhile
        collect(source, out)
        assert len(refused) == 3
    with pytest.raises(ConfigError, match="none.txt: No such file"):
        purge(tmp_path / "none.txt", [str(out)])
    with pytest.raises(ConfigError, match="names no uid"):
        purge(uids_file(tmp_path), [str(out)])
    assert settings(source, out).samples_per_shard == 20


def test_a_damaged_table_keeps_no_other_from_being_purged(tmp_path: Path) -> None:
    with hostile_server() as server:
        listed = pairs(server, 50)
        table = collect(write_list(tmp_path / "l.csv", listed), tmp_path / "out")
        collect(write_list(tmp_path / "l.csv", listed), tmp_path / "other")
    (tmp_path / "out" / "table" / "00000.parquet").write_bytes(b"rubbish")
    uids = tmp_path / "uids.txt"
    uids.write_text(f"{table[30]['uid']}\n")
    with pytest.raises(ShardError, match=r"0 of 6 shards and 1 tables are left .*00000.parquet: n"):
        purge(uids, [str(tmp_path / "out"), str(tmp_path / "other")])
    for name in ("out", "other"):
        rows = pq.read_table(tmp_path / name / "table" / "00001.parquet").to_pylist()
        assert [row["reason"] for row in rows if row["uid"] == table[30]["uid"]] == ["purged"]
