"""The index finds every damage, and reading through it loses nothing silently."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from engine.config import ConfigError
from engine.data.index import ShardError, build_index, index_path, open_index
from engine.data.open_source import open_source
from engine.data.shard_writer import ShardWriter
from engine.data.shards import Shards
from engine.data.source import stable_id
from tests.shards import caption, picture, write_shards

COUNT = 12


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """One indexed shard of 12 pairs."""
    write_shards(tmp_path, COUNT)
    return next(tmp_path.glob("*.tar"))


def damaged_samples(shard: Path) -> int | None:
    """Samples with a problem when read through the stored index; None where opening refuses."""
    try:
        source = Shards([shard])
    except ShardError:
        return None
    return sum(source.read(number).problem is not None for number in range(len(source)))


def test_what_was_written_is_read_byte_for_byte(shard: Path) -> None:
    source = open_source(str(shard))
    assert len(source) == COUNT
    for number in range(COUNT):
        sample = source.read(number)
        assert (sample.key, sample.uid) == (f"{number:05d}", f"uid-{number}")
        assert sample.url == f"http://example.org/{number}"
        assert sample.captions == [caption(number)]
        assert sample.image == picture(number)
        assert sample.problem is None


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_shards(tmp_path / "a", 7), write_shards(tmp_path / "b", 7)
    names = sorted(path.name for path in first.glob("*.tar"))
    assert names == sorted(path.name for path in second.glob("*.tar"))
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert not list(first.glob("*.partial"))


def test_every_flipped_bit_in_a_member_or_header_is_found(shard: Path) -> None:
    whole = shard.read_bytes()
    index = open_index(shard)
    inside = [
        (int(offset), int(offset + size))
        for places in index.places.values()
        for offset, size in places
    ]
    rng = random.Random(0)
    for _ in range(100):
        start, end = rng.choice(inside)
        broken = bytearray(whole)
        broken[rng.randrange(start, end)] ^= 1 << rng.randrange(8)
        shard.write_bytes(broken)
        assert damaged_samples(shard) == 1
    for _ in range(60):
        start, _ = rng.choice(inside)
        # The checksummed header fields right before a member.
        position = start - 512 + rng.choice([*range(8), *range(124, 136), 156])
        broken = bytearray(whole)
        broken[position] ^= 1 << rng.randrange(7)
        shard.write_bytes(broken)
        # Members are still read whole through the index; building it anew refuses the header.
        assert damaged_samples(shard) == 0
        with pytest.raises(ShardError, match="damaged header|reaches beyond|truncated"):
            build_index(shard)


def test_every_truncation_is_found(shard: Path) -> None:
    whole = shard.read_bytes()
    content_end = max(
        int(offset + size)
        for places in open_index(shard).places.values()
        for offset, size in places
    )
    rng = random.Random(1)
    for _ in range(50):
        shard.write_bytes(whole[: rng.randrange(content_end)])
        with pytest.raises(ShardError, match="truncated or replaced"):
            open_index(shard)
        with pytest.raises(ShardError):
            build_index(shard)


def test_an_index_is_built_once_where_there_is_none(shard: Path) -> None:
    stored = index_path(shard)
    before = open_index(shard).fingerprint
    stored.unlink()
    assert open_index(shard).fingerprint == before
    assert stored.is_file()


def test_an_index_that_is_rubbish_is_named(shard: Path) -> None:
    index_path(shard).write_bytes(b"rubbish")
    with pytest.raises(ShardError, match=r"\.index: not a readable index"):
        open_index(shard)


def test_members_of_a_sample_need_not_stand_together(tmp_path: Path) -> None:
    path = tmp_path / "mixed.tar"
    with tarfile.TarFile(path, "w") as tar:
        members = [(f"{k}.png", picture(k)) for k in range(3)]
        members += [(f"{k}.txt", caption(k).encode()) for k in (2, 0, 1)]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    source = open_source(str(path))
    assert [source.read(n).captions for n in range(3)] == [[caption(n)] for n in range(3)]


def test_links_devices_and_climbing_names_are_not_samples(tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    with tarfile.TarFile(path, "w") as tar:
        for name, kind in (("0.txt", tarfile.SYMTYPE), ("1.txt", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        for name in ("../2.txt", "/3.txt", "4.txt", "5.py", "5.pyd", "5.pkl"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"ok"))
    assert [key.as_py() for key in build_index(path).keys] == ["4"]


def test_a_long_name_is_read(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{form}.tar"
        with tarfile.TarFile(path, "w", format=form) as tar:
            info = tarfile.TarInfo("x" * 180 + ".txt")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"ok"))
        assert [key.as_py() for key in build_index(path).keys] == ["x" * 180]


def test_what_is_no_tar_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"<html>" * 200, bytes(100)):
        path = tmp_path / "no.tar"
        path.write_bytes(content)
        with pytest.raises(ShardError):
            build_index(path)


def test_the_writer_refuses_what_no_reader_takes(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, "x", 2) as writer:
        for key, extension in (("a.b", "png"), ("", "png"), ("a", "gif")):
            with pytest.raises(ValueError, match="cannot be stored"):
                writer.add(key, b"", extension, "", {})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "no data given"),
        ("no/such/folder", "no such file or folder"),
        ("no/such/*.tar", "no file matches"),
        ("EMPTY", "no .tar shard"),
        ("EMPTY/notes.md", "neither a .tar shard nor"),
    ],
)
def test_a_wrong_place_is_one_clear_line(tmp_path: Path, spec: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    if spec.endswith(".md"):
        (tmp_path / "empty" / "notes.md").write_text("x")
    with pytest.raises(ConfigError, match=message):
        open_source(spec.replace("EMPTY", str(tmp_path / "empty")))


def test_ranges_and_lists_name_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path, 50, per_shard=10)
    ranged = open_source(f"{folder}/pairs_{{00001..00003}}.tar")
    assert (len(ranged), ranged.lengths) == (30, [10, 10, 10])
    listed = open_source([str(folder / "pairs_00001.tar"), str(folder / "pairs_00002.tar")])
    assert [listed.read(n).key for n in (0, 19)] == ["00010", "00029"]
    assert ranged.fingerprint != listed.fingerprint


def annotated(tmp_path: Path, name: str, text: str) -> str:
    """A list file beside two pictures."""
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_annotation_lists_are_read_directly(tmp_path: Path) -> None:
    rows = [
        {"image": "0.png", "caption": "one", "image_id": 7},
        {"image": "1.png", "caption": ["two", "zwei"], "image_id": "coco_9"},
        {"image": "gone.png", "caption": "three"},
    ]
    source = open_source(annotated(tmp_path, "a.json", json.dumps(rows)))
    first, second, third = (source.read(n) for n in range(3))
    assert (first.image, first.captions, first.image_id) == (picture(0), ["one"], 7)
    assert second.captions == ["two", "zwei"]
    assert (third.image, third.problem) == (None, "missing")
    for name, mark in (("b.csv", ","), ("c.tsv", "\t")):
        text = f"FilePath{mark} Title\n0.png{mark}one\n1.png{mark}two\n"
        table = open_source(annotated(tmp_path, name, text))
        assert [table.read(n).captions for n in range(2)] == [["one"], ["two"]]
        assert table.read(1).image == picture(1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "not readable as json"),
        ("a.json", "[]", "expected a list of pairs"),
        ("a.json", '[{"image": "0.png", "caption": "x"}, {"image": "1.png"}]', "row 1 .*no 'cap"),
        ("a.json", '[{"caption": "x"}]', "row 0 has no 'image'"),
        ("a.csv", "a,b\n1,2\n", "no column of image paths .*found: a, b"),
        ("a.csv", "image,b\n1,2\n", "no column of captions"),
        ("a.csv", "image,caption\n", "no rows"),
        ("a.csv", "image,caption,caption\n0.png,x,y\n", "several columns named 'caption'"),
        ("a.csv", "image,caption,uid,uid\n0.png,x,y,z\n", "several columns named 'uid'"),
        ("a.csv", "image,caption\n0.png,x\n1.png,x, y\n", "Row #3: Expected 2 columns, got 3"),
        ("a.parquet", "rubbish", "not readable as parquet"),
    ],
)
def test_a_bad_list_names_file_and_row(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        open_source(annotated(tmp_path, name, text))
    assert name in str(caught.value)


def test_names_of_columns_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("image,caption,café\n0.png,x,y\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="a.csv: .*: names of columns are not UTF-8"):
        open_source(str(path))


def test_captions_may_have_several_lines(tmp_path: Path) -> None:
    """Some lie across the ends of the parts that a long table is read by."""
    caption = "a drawing\n" * 20 + "of a fox, perhaps"
    rows = [f'0.png,"{caption}"\n'] * 20_000
    source = open_source(annotated(tmp_path, "a.csv", "image,caption\n" + "".join(rows)))
    assert len(source) == 20_000
    assert source.read(19_999).captions == [caption]


def test_a_row_without_a_uid_is_known_by_its_picture(tmp_path: Path) -> None:
    rows = "image,caption,uid\n0.png,x,\n1.png,y,mine\n"
    source = open_source(annotated(tmp_path, "a.csv", rows))
    assert [source.read(number).uid for number in (0, 1)] == ["0.png", "mine"]


def test_columns_that_are_not_read_may_share_a_name(tmp_path: Path) -> None:
    source = open_source(annotated(tmp_path, "a.csv", "image,caption,path,path\n0.png,x,y,z\n"))
    assert source.read(0).captions == ["x"]


def test_several_tar_files_in_one_are_refused(shard: Path) -> None:
    """`tar` reads the first alone, and nobody would hear of the rest."""
    content = shard.read_bytes()
    shard.write_bytes(content * 2)
    with pytest.raises(ShardError, match=rf"more stands at byte {len(content)}: of several tar"):
        build_index(shard)
    # Some programs leave room.
    shard.write_bytes(content + bytes(3 << 20))
    assert len(build_index(shard)) == COUNT


def test_a_picture_of_number_0_is_known_by_it(tmp_path: Path) -> None:
    """Texts of one picture are never its negatives, and the number must be told from none."""
    facts = [{"image_id": 0}, {"image_id": 0}, {"image_id": None}, {}]
    with ShardWriter(tmp_path, "pairs", 9) as writer:
        for number, one in enumerate(facts):
            writer.add(f"{number}", picture(0), "png", "a fox", one | {"uid": f"u{number}"})
    source = open_source(str(tmp_path))
    ids = [source.read(number).image_id for number in range(4)]
    assert ids == [0, 0, stable_id("u2"), stable_id("u3")]
