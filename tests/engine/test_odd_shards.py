"""Strangers' shards: what is in them is read, or it is said that it is not, and why."""

import gzip
import json
import os
import random
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.collect.web.purge import purge
from engine.data import index as index_module
from engine.data.index import ShardError, build_index, index_path, open_index, read_index
from engine.data.pack_pairs import convert
from engine.data.shards import Shards
from launch import pack
from tests.capfilt_runs import clean, from_table, make_world, outcome
from tests.commands import call
from tests.odd_shards import READ, UNREAD, write_odd
from tests.shards import caption, picture, write_shards


def test_every_sample_is_in_the_index_or_named_there(tmp_path: Path) -> None:
    shard = write_odd(tmp_path / "odd.tar")
    index = open_index(shard)
    assert index.keys.to_pylist() == READ
    assert {one.key: one.reason for one in index.unread} == UNREAD
    assert read_index(shard).unread == index.unread
    source = Shards([shard])
    for number in range(len(READ)):
        raw = source.read(number)
        assert (raw.image, raw.captions) == (picture(number), [caption(number)])


def test_pack_says_what_is_never_read(tmp_path: Path) -> None:
    shard = write_odd(tmp_path / "odd.tar")
    write_shards(tmp_path, 3)
    for action, verdict in (("index", "indexed"), ("verify", "whole (bytes ")):
        done = call(pack.main, action, tmp_path)
        assert (done.code, done.err) == (0, "")
        unread, total = done.out.splitlines()
        assert unread.startswith(f"{shard}: {len(UNREAD)} never read: ")
        assert all(f"{key} ({reason})" in unread for key, reason in UNREAD.items())
        assert total.startswith(f"shards: 2, samples: 6, never read: {len(UNREAD)}, ")
        assert f" MB; all {verdict}" in total


def test_what_is_never_read_is_said_beside_damage(tmp_path: Path) -> None:
    shard = write_odd(tmp_path / "odd.tar")
    (tmp_path / "packed.tar").write_bytes(gzip.compress(random.Random(0).randbytes(2000)))
    done = call(pack.main, "index", tmp_path)
    assert done.code == 2
    assert done.out.startswith(f"{shard}: {len(UNREAD)} never read: ")
    assert "1 of 2 shards not indexed" in done.err
    assert "packed.tar: compressed with gzip: gunzip it" in done.err


def test_a_cleaned_folder_says_where_its_shards_are(tmp_path: Path) -> None:
    for part in ("shards", "table"):
        (tmp_path / "out" / part).mkdir(parents=True)
    done = call(pack.main, "index", tmp_path / "out")
    assert done.err.endswith(
        f"no .tar shard in this folder; cleaned ones are in {tmp_path}/out/shards\n"
    )


def test_names_are_said_on_one_line_without_their_control_characters(tmp_path: Path) -> None:
    with tarfile.TarFile(tmp_path / "x.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("../a\x1b[2Jb\nc.png"))
    out = call(pack.main, "index", tmp_path).out
    assert "../a\\x1b[2Jb\\nc (unsafe_name)" in out
    assert out.count("\n") == 2


def noting(shard: Path, unread: list[list[str]] | None) -> None:
    """The shard's index with this noted as never read; or nothing, as before it was noted."""
    table = pq.read_table(index_path(shard))
    facts = json.loads(table.schema.metadata[b"shard"]) | {"unread": unread}
    if unread is None:
        del facts["unread"]
    other = table.replace_schema_metadata({"shard": json.dumps(facts)})
    pq.write_table(other, index_path(shard))


def test_verify_names_what_an_index_from_before_does_not(tmp_path: Path) -> None:
    shard = write_odd(tmp_path / "odd.tar")
    open_index(shard)
    noting(shard, None)
    assert read_index(shard).unread == ()
    done = call(pack.main, "verify", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert all(f"{key} ({reason})" in done.out for key, reason in UNREAD.items())


def test_an_index_that_names_what_is_not_there_is_not_its_shards(tmp_path: Path) -> None:
    shard = write_odd(tmp_path / "odd.tar")
    open_index(shard)
    noting(shard, [["good", "good", "link"]])
    done = call(pack.main, "verify", tmp_path)
    assert done.code == 2
    assert "does not describe its shard; delete it to build it again" in done.err


@pytest.mark.parametrize(("length", "count"), [(1000, 30), (0, 3000)])
def test_names_without_measure_make_no_index_without_measure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int, count: int
) -> None:
    """Bytes that are no UTF-8 are the longest in an index; members may have no name at all."""
    monkeypatch.setattr(index_module, "NOTED", 1 << 14)
    shard = tmp_path / "x.tar"
    member = tarfile.TarInfo("\udcff" * length).tobuf(tarfile.GNU_FORMAT)
    shard.write_bytes(member * count + bytes(1024))
    index = open_index(shard)
    assert len(index.unread) == count
    assert index_path(shard).stat().st_size < 16 * index_module.NOTED
    noted = read_index(shard).unread
    assert 0 < len(noted) < count and noted == index.unread[: len(noted)]
    done = call(pack.main, "verify", tmp_path)
    assert (done.code, done.err) == (0, "")
    assert f"{count} never read: " in done.out and len(done.out) < 4000


def test_cleaning_accounts_for_every_sample(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world")
    write_odd(tmp_path / "odd" / "odd.tar")
    given = ("--data.train", tmp_path / "odd", "--rule.itm_threshold", 0)
    ended = clean(world, tmp_path / "out", *given)
    assert ended.code == 0, ended.err
    lines = (tmp_path / "out" / "quarantine" / "odd.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["key"]: row["reason"] for row in rows} == UNREAD
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["pairs"] == summary["written"] + sum(summary["bad"].values()) == 14
    assert summary["bad"] == Counter(UNREAD.values())
    assert "3 of 14 pictures, kept 100 % of web and 100 % of synthetic texts" in ended.err
    assert f"in quarantine/: {len(UNREAD)} samples" in ended.err
    again = from_table(world, tmp_path / "out", tmp_path / "again", *given)
    assert again.code == 0, again.err
    assert outcome(tmp_path / "again") == outcome(tmp_path / "out")


def test_packing_anew_counts_what_is_left_out(tmp_path: Path) -> None:
    write_odd(tmp_path / "odd" / "odd.tar")
    made = convert([str(tmp_path / "odd")], tmp_path / "new", progress=lambda line: None)
    assert (made.pairs, made.left_out) == (len(READ), Counter(UNREAD.values()))


def test_what_is_never_read_is_purged_all_the_same(tmp_path: Path) -> None:
    shard = write_odd(tmp_path / "odd.tar")
    (tmp_path / "uids.txt").write_text("../../up\nanimation.gif\n")
    with pytest.raises(ShardError, match="two members of one kind of the sample 'twice'"):
        purge(tmp_path / "uids.txt", [str(shard)])
    with tarfile.TarFile(tmp_path / "one.tar", "w") as new, tarfile.open(shard) as old:
        for member in old:
            if not member.name.startswith(("twice", "both")) and member.isreg():
                new.addfile(member, old.extractfile(member))
    assert purge(tmp_path / "uids.txt", [str(tmp_path / "one.tar")]) == 2
    left = build_index(tmp_path / "one.tar")
    assert not {"../../up", "animation.gif"} & {one.key for one in left.unread}
    assert left.keys.to_pylist()[0] == "good"
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert not [name for name in tar.getnames() if "up." in name or "animation" in name]


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs GNU tar")
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_files_with_holes_are_named_and_what_follows_is_read(tmp_path: Path, form: str) -> None:
    with (tmp_path / "hollow.png").open("wb") as file:
        for place in range(40):
            file.seek(place * 65536)
            file.write(b"x" * 512)
        file.truncate(40 * 65536)
    if os.stat(tmp_path / "hollow.png").st_blocks * 512 > 20 * 65536:
        pytest.skip("a filesystem without holes")
    (tmp_path / "whole.png").write_bytes(picture(3))
    names = ["hollow.png", "whole.png"]
    words = ["tar", "--sparse", f"--format={form}", "-cf", "x.tar", *names]
    subprocess.run(words, cwd=tmp_path, check=True)
    index = build_index(tmp_path / "x.tar")
    assert index.keys.to_pylist() == ["whole"]
    assert [(one.key, one.reason) for one in index.unread] == [("hollow", "sparse_file")]
    assert Shards([tmp_path / "x.tar"]).read(0).image == picture(3)


def test_a_name_is_long_or_short_by_a_letter(tmp_path: Path) -> None:
    key = "x" * 94
    with tarfile.TarFile(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for ending in ("png", "json"):
            tar.addfile(tarfile.TarInfo(f"./{key}.{ending}"))
    index = build_index(tmp_path / "x.tar")
    assert index.keys.to_pylist() == [key]
    assert index.places["image"][0, 1] == index.places["json"][0, 1] == 0
