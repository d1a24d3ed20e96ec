"""What a conversion leaves out is named, in a file and on the terminal; the rest is made."""

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.check.pairs import open_pairs
from engine.data import pack_pairs
from engine.data.left_out import QUARANTINE
from engine.data.shard_writer import ShardWriter, add_members
from engine.data.shards import Shards
from engine.data.source import stable_id
from launch import pack
from tests.commands import Ended, call, contents
from tests.shards import picture, write_shards


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pictures 0.png to 3.png."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    return tmp_path


def write_list(root: Path, rows: list[dict[str, Any]], name: str = "pairs.json") -> Path:
    (root / name).write_text(json.dumps(rows))
    return root / name


def pair(image: str, caption: Any = "a thing") -> dict[str, Any]:
    return {"image": image, "caption": caption}


def convert(output: Path, *given: object) -> Ended:
    return call(pack.main, "convert", *given, "--output_dir", output)


def quarantined(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / QUARANTINE).read_text().splitlines()]


def uids(output: Path) -> list[str]:
    shards = Shards(sorted(output.glob("*.tar")))
    return [shards.read(number).uid for number in range(len(shards))]


def test_every_row_that_is_left_out_is_named_with_its_reason(root: Path) -> None:
    (root / "page.png").write_bytes(b"<html>")
    (root / "zero.png").write_bytes(b"")
    (root / "folder.png").mkdir()
    (root / "huge.png").touch()
    os.truncate(root / "huge.png", (64 << 20) + 1)
    rows = [pair("0.png"), pair("page.png"), pair("none\n.png"), pair("0.png", ["x", None, "y"])]
    rows += [pair("zero.png"), pair("folder.png"), pair("huge.png"), pair("1.png", [])]
    rows += [pair(f"gone{n}.png") for n in range(5)] + [pair("n" * 5000), pair("\ud800.png")]
    listed = write_list(root, rows)
    done = convert(root / "web", listed)
    assert (done.code, done.err) == (0, "")
    expected = [
        (1, "page.png", "page.png", "wrong_format"),
        (2, "none\n.png", "none\n.png", "missing"),
        (3, "0.png", "0.png#1", "bad_text"),
        (4, "zero.png", "zero.png", "empty"),
        (5, "folder.png", "folder.png", "no_file"),
        (6, "huge.png", "huge.png", "file_too_large"),
        (7, "1.png", "1.png", "empty_caption"),
        *((8 + n, f"gone{n}.png", f"gone{n}.png", "missing") for n in range(5)),
        (13, "n" * 999 + "…", "n" * 999 + "…", "unreadable_name"),
        (14, "?.png", "?.png", "missing"),
    ]
    names = ("row", "key", "uid", "reason")
    assert quarantined(root / "web") == [
        {"file": str(listed)} | dict(zip(names, one, strict=True)) for one in expected
    ]
    lines = done.out.splitlines()
    first = f"none\\n.png ({listed} row 2), gone0.png ({listed} row 8), gone1.png ({listed} row 9)"
    assert lines[0] == f"left out: 7 missing: {first}, ..."
    assert f"left out: 1 wrong_format: page.png ({listed} row 1)" in lines
    named = f"{root / 'web' / QUARANTINE} (rows from 0, without a CSV's head) names all that is "
    named += "left out: 7 missing, 1 "
    assert lines[-1].startswith(f"{root / 'web'}: 3 pairs, 0.0 MB; {named}")
    assert lines[-1].endswith("; is --image_root right?")


def test_nothing_left_out_leaves_no_file(root: Path) -> None:
    (root / "web").mkdir()
    (root / "web" / QUARANTINE).write_text("of shards that are gone\n")
    done = convert(root / "web", write_list(root, [pair("0.png")]))
    assert done.out.endswith("left out: none\n")
    assert sorted(contents(root / "web")) == ["pairs_00000.tar", "pairs_00000.tar.index"]


@pytest.mark.parametrize("damage", ["cut", "header", "empty", "page", "replaced", "index"])
def test_a_shard_that_cannot_be_read_is_left_out_and_said(root: Path, damage: str) -> None:
    shards = write_shards(root / "shards", 9, per_shard=3)
    bad = shards / "pairs_00001.tar"
    whole, index = bad.read_bytes(), bad.with_suffix(".tar.index")
    if damage == "index":
        index.write_bytes(b"PAR1")
    elif damage != "replaced":
        index.unlink()
    changed = {
        "cut": whole[:2000],
        "header": whole[:20] + b"\xff" + whole[21:],
        "empty": b"",
        "page": b"<html>" * 200,
        "replaced": whole[:-512],
        "index": whole,
    }
    bad.write_bytes(changed[damage])
    done = convert(root / "web", shards, write_list(root, [pair("0.png"), pair("none.png")]))
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: {root / 'web'}: all is there but 1 shard that cannot be read: ")
    assert str(bad) in line and "go on without" in line
    assert "7 pairs" in done.out and done.out.endswith("left out: 1 missing, 1 shard\n")
    first, second = quarantined(root / "web")
    assert first.keys() == {"file", "reason"} and first["file"] == str(bad)
    assert f"{bad}: {first['reason']}" in line
    assert (second["key"], second["reason"]) == ("none.png", "missing")
    assert uids(root / "web") == [f"uid-{n}" for n in (0, 1, 2, 6, 7, 8)] + ["0.png"]
    assert call(pack.main, "verify", root / "web").code == 0


def test_shards_of_which_none_can_be_read_make_nothing(root: Path) -> None:
    shards = write_shards(root / "shards", 8, per_shard=1)
    for path in shards.glob("*.tar"):
        path.write_bytes(b"")
    done = convert(root / "web", shards)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert "not one pair to pack: 8 shards that cannot be read: " in done.err
    assert f"{shards / 'pairs_00004.tar'}: " in done.err and " and 3 more" in done.err
    done = convert(root / "web", shards, write_list(root, [pair("none.png"), pair("gone.png")]))
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert f"not one pair to pack: 2 missing: none.png ({root / 'pairs.json'} row 0)" in done.err
    assert "8 shards that cannot be read" in done.err
    assert not list((root / "web").glob("*"))


def test_shards_of_samples_that_are_never_read_say_why(root: Path) -> None:
    """As `tar` names members of a whole path."""
    with tarfile.open(root / "pairs.tar", "w") as tar:
        add_members(tar, "/data/0", [("png", picture(0)), ("txt", b"a thing")])
    done = convert(root / "web", root / "pairs.tar")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: not one pair to pack: 1 never read: /data/0 (unsafe_name)\n"
    assert not (root / "web").exists()


def test_samples_that_are_never_read_are_named_too(root: Path) -> None:
    shards = write_shards(root / "shards", 3)
    path = shards / "pairs_00000.tar"
    content = bytearray(path.read_bytes())
    content[content.index(b"a red square number 0")] ^= 1
    path.write_bytes(content)
    done = convert(root / "web", shards)
    assert (done.code, uids(root / "web")) == (0, ["uid-1", "uid-2"])
    facts = {"row": 0, "key": "00000", "uid": "uid-0", "reason": "hash_mismatch"}
    assert quarantined(root / "web") == [{"file": str(path)} | facts]


def test_an_input_that_goes_while_it_is_read_is_named_and_not_the_output(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(root / "shards", 3)
    alone = pack_pairs.PairNames

    def without() -> pack_pairs.PairNames:
        (shards / "pairs_00000.tar").unlink()
        return alone()

    monkeypatch.setattr(pack_pairs, "PairNames", without)
    done = convert(root / "web", shards)
    assert done.code == 2
    said = "pairs_00000.tar: was replaced or went; nothing was kept"
    assert said in done.err
    assert not list((root / "web").glob("*"))


def test_the_next_finishes_what_it_left_out_too(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = write_list(root, [pair("0.png"), pair("none.png")])
    assert convert(root / "whole", listed).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert convert(root / "web", listed).code == 130
    ended = convert(root / "web", listed)
    assert "that is done now" in ended.err and f"{root / 'web' / QUARANTINE} names" in ended.err
    assert contents(root / "web") == contents(root / "whole")


def test_rows_of_one_picture_have_uids_of_their_own(root: Path) -> None:
    rows = [pair(f"{n % 4}.png", f"thing {n}") for n in range(6)] + [pair("0.png", ["x", "y"])]
    listed, web = write_list(root, rows), root / "web"
    assert convert(web, listed).code == 0
    names = ["0.png", "1.png", "2.png", "3.png", "0.png#1", "1.png#1", "0.png#0", "0.png#2"]
    assert uids(web) == names
    pairs, findings = open_pairs("data.train", str(web), None, "pretrain")
    assert pairs is not None and not findings and pairs.repeated_names() == 0
    shards = Shards(sorted(web.glob("*.tar")))
    pictures = [shards.read(number).image_id for number in (0, 4, 6, 7)]
    assert len(set(pictures)) == 1
    # Once more from the list, and from its shards: the same bytes.
    assert convert(root / "again", listed).code == convert(root / "anew", web).code == 0
    assert contents(root / "again") == contents(root / "anew") == contents(web)


def test_a_uid_depends_on_the_list_and_not_on_which_pictures_are_there(root: Path) -> None:
    lists = [write_list(root, [pair("0.png", "of this folder")])]
    (root / "other").mkdir()
    lists += [write_list(root / "other", [pair("0.png", "of another"), pair("0.png", "twice")])]
    (root / "other" / "0.png").write_bytes(picture(7))
    assert convert(root / "web", *lists).code == 0
    assert uids(root / "web") == ["0.png", "0.png#1", "0.png#2"]
    (root / "0.png").unlink()
    assert convert(root / "less", *lists).code == 0
    assert uids(root / "less") == ["0.png#1", "0.png#2"]


def test_shards_of_repeated_uids_are_mended_by_packing_anew(root: Path) -> None:
    one, two = (write_shards(root / name, 2) for name in ("one", "two"))
    assert convert(root / "web", one, two).code == 0
    assert uids(root / "web") == ["uid-0", "uid-1", "uid-0#1", "uid-1#1"]


def test_rows_of_a_table_without_a_uid_are_named_by_their_picture(root: Path) -> None:
    lines = ("image,caption,uid", "0.png,a,", "1.png,b,mine", "0.png,c,", "2.png,d,mine")
    (root / "pairs.csv").write_text("\n".join(lines))
    assert convert(root / "web", root / "pairs.csv").code == 0
    assert uids(root / "web") == ["0.png", "mine", "0.png#1", "mine#1"]


LISTS = [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)]


@pytest.mark.parametrize("kind", LISTS, ids=str)
def test_captions_of_a_table_are_lists_of_any_kind_or_missing(root: Path, kind: Any) -> None:
    columns = {"image": ["0.png", "1.png"], "caption": pa.array([["a", "b"], None], kind)}
    pq.write_table(pa.table(columns), root / "pairs.parquet")
    assert convert(root / "web", root / "pairs.parquet").code == 0
    assert uids(root / "web") == ["0.png#0", "0.png#1"]
    (left_out,) = quarantined(root / "web")
    assert (left_out["key"], left_out["reason"]) == ("1.png", "empty_caption")


@pytest.mark.parametrize(
    "column",
    [
        {"image": pa.array([{"bytes": b"x", "path": "0.png"}])},
        {"image": [b"\xff"]},
        {"caption": pa.array([{"x": 1}])},
        {"uid": [[5]]},
        {"url": [b"\xff"]},
    ],
    ids=["struct", "bytes", "caption", "uid", "url"],
)
def test_columns_that_hold_no_texts_are_one_line(root: Path, column: dict[str, Any]) -> None:
    columns = {"image": ["0.png"], "caption": ["a"]} | column
    pq.write_table(pa.table(columns), root / "pairs.parquet")
    done = convert(root / "web", root / "pairs.parquet")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert f"pairs.parquet: column '{next(iter(column))}' holds " in done.err


def test_pictures_without_an_id_are_not_all_one(root: Path) -> None:
    """A null or nothing in a column of ids is no id."""
    lists = [write_list(root, [pair(f"{n}.png") | {"image_id": None} for n in range(3)])]
    (root / "pairs.csv").write_text("image,caption,image_id\n0.png,a,\n1.png,b,x\n2.png,c,\n")
    columns = {"image": ["0.png", "1.png"], "caption": ["a", "b"], "image_id": pa.nulls(2)}
    pq.write_table(pa.table(columns), root / "pairs.parquet")
    lists += [root / "pairs.csv", root / "pairs.parquet"]
    assert convert(root / "web", *lists).code == 0
    shards = Shards(sorted((root / "web").glob("*.tar")))
    ids = [shards.read(number).image_id for number in range(8)]
    own = [stable_id(f"{n}.png") for n in range(3)]
    assert ids == [*own, own[0], stable_id("x"), own[2], *own[:2]]
    with ShardWriter(root / "bare", "pairs", 2) as writer:
        for number in range(2):
            facts = {"uid": f"u{number}", "image_id": None}
            writer.add(str(number), picture(number), "png", "a", facts)
    shards = Shards([root / "bare" / "pairs_00000.tar"])
    assert [shards.read(n).image_id for n in range(2)] == [stable_id("u0"), stable_id("u1")]
