"""`pack.py convert` of Hugging Face datasets saved on disk."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.config import ConfigError
from engine.data.open_source import open_source
from engine.data.saved_datasets import SavedDataset
from engine.data.shards import Shards
from launch import pack
from tests.commands import Ended, call
from tests.shards import picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def saved(folder: Path, columns: dict[str, pa.Array], files: int = 1, batch: int = 2) -> Path:
    """A dataset as `datasets.save_to_disk` 5.2 leaves it (compared with the library's own)."""
    folder.mkdir(parents=True)
    table, names = pa.table(columns), []
    step = -(-len(table) // files)
    for number in range(files):
        names.append(f"data-{number:05d}-of-{files:05d}.arrow")
        part = table.slice(number * step, step)
        with pa.ipc.new_stream(folder / names[-1], table.schema) as stream:
            stream.write_table(part, max_chunksize=batch)
    state: dict[str, Any] = {"_data_files": [{"filename": name} for name in names]}
    state |= {"_fingerprint": "1cc93276495b5cb4", "_format_columns": None, "_format_kwargs": {}}
    state |= {"_format_type": None, "_output_all_columns": False, "_split": None}
    (folder / "state.json").write_text(json.dumps(state, indent=2))
    (folder / "dataset_info.json").write_text('{"citation": "", "license": ""}')
    return folder


def images(count: int) -> pa.Array:
    rows = [{"bytes": picture(number), "path": f"{number}.png"} for number in range(count)]
    return pa.array(rows, IMAGE)


def convert(folder: Path, output: Path, *words: object) -> Ended:
    return call(pack.main, "convert", folder, "--output_dir", output, *words)


def refused(folder: Path, output: Path, *words: object) -> str:
    """The one line of a command that ends with 2 and writes nothing."""
    done = convert(folder, output, *words)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done
    assert not list(output.glob("*"))
    return done.err


def packed(output: Path) -> list[tuple[list[str], bytes | None, str, str]]:
    shards = Shards(sorted(output.glob("*.tar")))
    found = [shards.read(number) for number in range(len(shards))]
    assert call(pack.main, "verify", output).code == 0
    return [(one.captions, one.image, one.uid, one.url) for one in found]


def test_a_dataset_of_several_files_becomes_shards(tmp_path: Path) -> None:
    columns = {"image": images(7), "text": pa.array([f"a {n}" for n in range(7)])}
    done = convert(saved(tmp_path / "set", columns, files=2), tmp_path / "web")
    assert (done.code, done.err) == (0, "") and "7 pairs" in done.out
    assert packed(tmp_path / "web") == [
        ([f"a {n}"], picture(n), f"1cc93276495b5cb4-{n}", "") for n in range(7)
    ]


def test_other_columns_several_captions_paths_and_what_is_missing(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    rows = [
        {"bytes": picture(0), "path": None},
        {"bytes": None, "path": "1.png"},
        {"bytes": None, "path": str(tmp_path / "2.png")},
        {"bytes": None, "path": "none.png"},
        {"bytes": b"<html>", "path": "page.png"},
        None,
        {"bytes": picture(6), "path": None},
    ]
    texts = [["one", None, "two"], ["z"], ["y"], ["x"], ["w"], ["v"], None]
    columns = {
        "photo": pa.array(rows, IMAGE),
        "label": pa.array(range(7)),
        "captions": pa.array(texts, pa.list_(pa.string())),
        "url": pa.array(["http://a", None, None, None, None, None, None]),
        "image_id": pa.array(range(10, 17)),
        "uid": pa.array([f"u{n}" for n in range(7)]),
    }
    folder = saved(tmp_path / "set", columns)
    done = convert(folder, tmp_path / "web", "--image_root", tmp_path)
    assert done.code == 0, done
    assert "left out: 2 missing, 1 wrong_format, 1 empty_caption" in done.out
    assert packed(tmp_path / "web") == [
        (["one"], picture(0), "u0#0", "http://a"),
        (["two"], picture(0), "u0#1", "http://a"),
        (["z"], picture(1), "u1", ""),
        (["y"], picture(2), "u2", ""),
    ]
    shards = Shards(sorted((tmp_path / "web").glob("*.tar")))
    assert [shards.read(n).image_id for n in range(4)] == [10, 10, 11, 12]


def test_numbered_captions_are_all_taken(tmp_path: Path) -> None:
    columns = {"image": images(1), "caption_0": pa.array(["a"]), "caption_1": pa.array(["b"])}
    assert convert(saved(tmp_path / "set", columns), tmp_path / "web").code == 0
    assert [one[0] for one in packed(tmp_path / "web")] == [["a"], ["b"]]


def test_a_split_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for name, count in (("train", 3), ("validation", 1)):
        columns = {"image": images(count), "text": pa.array([f"{name} {n}" for n in range(count)])}
        saved(folder / name, columns)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    said = refused(folder, tmp_path / "web")
    assert f"{folder}: name one of its splits with --split: train, validation" in said
    assert "no split 'test'; name one" in refused(folder, tmp_path / "web", "--split", "test")
    said = refused(folder / "train", tmp_path / "web", "--split", "train")
    assert "has no splits; leave out --split train" in said
    (tmp_path / "l.json").write_text('[{"image": "a.png", "caption": "b"}]')
    assert "is a saved dataset" in refused(tmp_path / "l.json", tmp_path / "web", "--split", "x")
    assert "belong to convert" in call(pack.main, "index", folder, "--split", "train").err
    assert convert(folder, tmp_path / "web", "--split", "validation").code == 0
    assert [one[0] for one in packed(tmp_path / "web")] == [["validation 0"]]
    with pytest.raises(ConfigError, match=r"a saved dataset: launch/pack.py convert"):
        open_source(str(folder))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"a": images(1), "b": images(1), "text": pa.array(["x"])}, "several columns of pictures"),
        ({"text": pa.array(["x"])}, "no column of pictures; found: text"),
        ({"image": images(1), "label": pa.array([3])}, "no column of texts .*found: image, label"),
    ],
)
def test_columns_that_are_missing_are_named(
    tmp_path: Path, columns: dict[str, pa.Array], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        SavedDataset(saved(tmp_path / "set", columns), None)


def pictures_of(*fields: tuple[str, pa.DataType, Any]) -> pa.Array:
    """One row of a struct."""
    arrays = [pa.array([value], kind) for _, kind, value in fields]
    return pa.StructArray.from_arrays(arrays, fields=[pa.field(*one[:2]) for one in fields])


BYTES, PATH = ("bytes", pa.binary(), b"x"), ("path", pa.string(), "a.png")
FAR = 1 << 60


@pytest.mark.parametrize(
    "image",
    [
        pictures_of(("bytes", pa.int64(), 1), PATH),
        pictures_of(BYTES, ("path", pa.int64(), 1)),
        pictures_of(BYTES, ("path", pa.binary(), b"a")),
        pictures_of(BYTES, PATH, PATH),
        pictures_of(BYTES, BYTES, PATH),
    ],
    ids=["bytes of numbers", "path of numbers", "path of bytes", "two paths", "two bytes"],
)
def test_a_struct_of_another_kind_holds_no_pictures(tmp_path: Path, image: pa.Array) -> None:
    folder = saved(tmp_path / "set", {"image": image, "text": pa.array(["x"])})
    assert "no column of pictures; found: image, text" in refused(folder, tmp_path / "web")


@pytest.mark.parametrize("name", ["uid", "url", "image_id"])
@pytest.mark.parametrize(
    "kind", [pa.timestamp("ns"), pa.timestamp("s"), pa.timestamp("s", "No/Zone"), pa.binary()]
)
def test_names_that_are_neither_texts_nor_numbers_are_refused(
    tmp_path: Path, name: str, kind: pa.DataType
) -> None:
    value = b"x" if kind == pa.binary() else FAR + 1
    columns = {"image": images(1), "text": pa.array(["x"]), name: pa.array([value], kind)}
    folder = saved(tmp_path / "set", columns)
    assert f"column '{name}' holds {kind}, no texts" in refused(folder, tmp_path / "web")


def test_what_else_there_is_may_be_of_any_kind(tmp_path: Path) -> None:
    far = pa.array([FAR + 1], pa.timestamp("s", "No/Zone"))
    image = pictures_of(("bytes", pa.large_binary(), picture(0)), ("path", pa.null(), None), BYTES)
    image = pa.StructArray.from_arrays([*image.flatten()[:2], far], ["bytes", "path", "taken"])
    columns = {"image": image, "text": pa.array(["x"]), "when": far}
    columns |= {"url": pa.nulls(1), "image_id": pa.array([0.5]), "uid": pa.array([7], pa.uint8())}
    assert convert(saved(tmp_path / "set", columns), tmp_path / "web").code == 0
    assert packed(tmp_path / "web") == [(["x"], picture(0), "7", "")]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", {"image": images(1), "text": pa.array(["x"])})
    table = pa.table([images(1), pa.array(["x"]), pa.array(["y"])], ["image", "text", "text"])
    with pa.ipc.new_stream(next(folder.glob("*.arrow")), table.schema) as stream:
        stream.write_table(table)
    assert "several columns named 'text'" in refused(folder, tmp_path / "web")


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
@pytest.mark.parametrize("place", ["rows", "dictionary"])
def test_what_is_compressed_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, place: str
) -> None:
    """A kilobyte may become a gigabyte."""
    folder = saved(tmp_path / "set", {"image": images(1), "text": pa.array(["x"])})
    long, path = pa.array([bytes(1 << 20)]), next(folder.glob("*.arrow"))
    more = long.dictionary_encode() if place == "dictionary" else long
    table = pa.table({"image": images(1), "text": ["x"], "more": more})
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(path, table.schema, options=options) as stream:
        stream.write_table(table)
    monkeypatch.setattr(pa.ipc, "open_stream", None)
    assert f"{path}: is compressed" in refused(folder, tmp_path / "web")


def test_what_is_damaged_names_file_and_row(tmp_path: Path) -> None:
    columns = {"image": images(8), "text": pa.array([f"a {n}" for n in range(8)])}
    folder, web = saved(tmp_path / "set", columns, files=2), tmp_path / "web"
    last = folder / "data-00001-of-00002.arrow"
    whole, state = last.read_bytes(), (folder / "state.json").read_text()
    last.write_bytes(whole[:-8])
    assert f"{last}: cannot be read from row 4 on: the end of the file" in refused(folder, web)
    last.write_bytes(whole[: len(whole) * 3 // 4])
    assert f"{last}: cannot be read from row 2 on" in refused(folder, web)
    # Where its texts begin in the first batch: offsets that point beyond.
    place = whole.index(b"a 4a 5") - 64
    last.write_bytes(whole[:place] + b"\xff" * 64 + whole[place + 64 :])
    assert f"{last}: cannot be read from row 0 on" in refused(folder, web)
    last.write_bytes(b"")
    assert f"{last}: cannot be read from row 0 on" in refused(folder, web)
    last.unlink()
    assert f"{last}: no such file" in refused(folder, web)
    last.write_bytes(whole)
    for broken in ("{", "[]", '{"_data_files": [{"filename": "../x"}]}'):
        (folder / "state.json").write_text(broken)
        assert f"{folder / 'state.json'}: " in refused(folder, web)
    (folder / "state.json").write_text(state.replace("{}", '{}, "_indices_files": [1]', 1))
    assert "flatten_indices()" in refused(folder, web)


def test_flipped_bits_are_one_line_or_other_content(tmp_path: Path) -> None:
    columns = {"image": images(6), "text": pa.array([f"a {n}" for n in range(6)])}
    folder, rng, ends = saved(tmp_path / "set", columns), random.Random(0), Counter()
    path = next(folder.glob("*.arrow"))
    whole = path.read_bytes()
    for _ in range(150):
        broken = bytearray(whole)
        broken[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            source = SavedDataset(folder, None)
            ends["read"] += [source.read(n) is not None for n in range(len(source))] != []
        except ConfigError as error:
            assert str(folder) in str(error) and "\n" not in str(error)
            ends["refused"] += 1
    assert ends["refused"] > 10 and ends["read"] > 10
