"""`launch/caption.py` and `launch/embed.py`: files, folders, shards and lists; good and bad."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import engine
from blip_model import Blip
from engine.bulk import embed, skipped, tables
from engine.bulk.batches import encoded
from engine.bulk.inputs import PictureFiles, Place
from engine.data.source import RawSample
from engine.inference import LoadedBlip
from engine.progress import Progress
from launch import caption as captioning
from launch import embed as embedding
from tests.commands import call, contents
from tests.shards import bomb, caption, picture, write_shards
from tests.tiny import spread, tiny_config, write_model

pytestmark = pytest.mark.xdist_group("bulk")

# In the order in which they are gone through.
FILES = ["a/line\nend\t\\.png", "a/é.jpg", "b.PNG"]
SHARDS = [f"shards/pairs_{n // 4:05d}.tar/{n:05d}" for n in range(6)]
NUMBERS = [*range(3), *range(6)]
PLAIN = ("--device", "cpu", "--precision", "fp32")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, a folder of pictures with odd names, shards, a list, and what is no picture."""
    folder = tmp_path_factory.mktemp("bulk")
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    write_model(folder / "weights", model)
    with torch.no_grad():
        model.visual_encoder.norm.weight.fill_(3e38)
    write_model(folder / "diverged", model)
    for number, name in enumerate(FILES):
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        form = "JPEG" if name.endswith("jpg") else "PNG"
        (folder / "set" / name).write_bytes(picture(number, form=form))
    write_shards(folder / "shards", 6, per_shard=4)
    rows = [
        {"image": "b.PNG", "caption": ["a dog", " .! ", "two, cats"]},
        {"image": "gone.png", "caption": "a"},
        {"image": "a/é.jpg", "caption": "x", "uid": "mine"},
    ]
    (folder / "list.json").write_text(json.dumps(rows))
    (folder / "empty").mkdir()
    (folder / "bad").mkdir()
    (folder / "bad" / "text.png").write_text("a picture that is text")
    (folder / "bad" / "torn.jpg").write_bytes(picture(1, form="JPEG")[:200])
    (folder / "bad" / "wide.png").write_bytes(bomb(50_000, 2_600))
    (folder / "bad" / "page.tar").write_text("<html>" * 200)
    (folder / "bad" / "dot.png").write_bytes(Image.new("RGB", (1, 1)).tobytes())
    Image.new("1", (50_000, 2)).save(folder / "bad" / "thin.png")
    return folder


@pytest.fixture(scope="module")
def blip(world: Path) -> LoadedBlip:
    return engine.load(world / "weights", device="cpu")


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    return world


def run(main: Any, *words: object, code: int = 0, model: str = "weights") -> Any:
    done = call(main, *words, "--model", model, *PLAIN)
    assert done.code == code, done.err
    return done


def pictures_of(folder: Path) -> list[bytes]:
    return [(folder / "set" / name).read_bytes() for name in FILES] + [picture(n) for n in range(6)]


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What stands in a table."""
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)) if path.suffix == ".csv" else [*map(json.loads, file)]


SHORT = ("--caption.max_length", 9)


def test_captions_are_lines(here: Path, blip: LoadedBlip) -> None:
    done = run(captioning.main, "set", "shards", "set/b.PNG", *SHORT, "--batch_size", 4)
    expected = blip.caption(pictures_of(here), max_length=9)
    expected.append(expected[2])
    lines = [line.split("\t") for line in done.out.splitlines()]
    names = ["set/a/line\\nend\\t\\.png", "set/a/é.jpg", "set/b.PNG", *SHARDS, "set/b.PNG"]
    assert lines == [list(pair) for pair in zip(names, expected, strict=True)]
    assert done.err == "10 pictures captioned, 0 skipped\n"


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_captions_in_a_file(here: Path, blip: LoadedBlip, tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new" / f"captions.{ending}"
    done = run(captioning.main, "set", "shards/*.tar", *SHORT, "--output", path)
    assert (done.out, done.err) == ("", "9 pictures captioned, 0 skipped\n")
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    rows = rows_of(path)
    assert [row["path"] for row in rows] == [*(f"set/{name}" for name in FILES), *SHARDS]
    assert [row["uid"] for row in rows[3:]] == [f"uid-{n}" for n in range(6)]
    assert [row["caption"] for row in rows] == blip.caption(pictures_of(here), max_length=9)
    before = contents(tmp_path)
    again = run(captioning.main, "set", "--output", path, code=2)
    assert "exists already" in again.err and contents(tmp_path) == before


def test_samples_depend_on_the_picture_alone(here: Path) -> None:
    nucleus = (*SHORT, "--caption.method", "nucleus", "--caption.samples", 2, "--seed", 3)
    one = run(captioning.main, "set", "shards", *nucleus).out.splitlines()
    other = run(captioning.main, "shards", "set", *nucleus, "--batch_size", 2).out.splitlines()
    assert len(set(one)) == 18
    assert one == other[12:] + other[:12]
    assert one != run(captioning.main, "set", "shards", *nucleus[:-1], 4).out.splitlines()


def test_what_cannot_be_used_is_told_and_skipped(here: Path, tmp_path: Path) -> None:
    words = ["empty", "gone.png", "gone.tar", "*.zip", "bad", "set/b.PNG", "list.json"]
    done = run(captioning.main, *words, *SHORT, "--image_root", "set")
    assert [line.split("\t")[0] for line in done.out.splitlines()] == [
        "set/b.PNG",
        "set/b.PNG",
        "set/a/é.jpg",
    ]
    told = dict(line[len("skipped ") :].split(": ", 1) for line in done.err.splitlines()[:-1])
    assert told == {
        "empty": "no picture or shard in this folder",
        "gone.png": "missing",
        "gone.tar": "No such file or directory",
        "*.zip": "no file matches",
        "bad/page.tar": told["bad/page.tar"],
        "bad/dot.png": "wrong_format",
        "bad/text.png": "wrong_format",
        "bad/thin.png": "too_thin",
        "bad/torn.jpg": "undecodable",
        "bad/wide.png": "too_many_pixels",
        "set/gone.png": "missing",
    }
    assert "not a tar file" in told["bad/page.tar"]
    assert done.err.splitlines()[-1].startswith("3 pictures captioned, 11 skipped (")
    for names in (["empty"], ["bad"], ["gone.png", "gone.tar"]):
        path = tmp_path / "none.csv"
        done = run(captioning.main, *names, *SHORT, "--output", path, code=2)
        assert done.err.splitlines()[-1].startswith("error: no usable picture: ")
        assert not any(tmp_path.iterdir())


def test_a_name_that_is_no_text(here: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xe9.png")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / name).write_bytes(picture(0))
    done = run(captioning.main, tmp_path / "set", *SHORT)
    assert done.out.startswith(f"{tmp_path}/set/\\udcff\\udce9.png\t")
    for ending in ("csv", "jsonl", "parquet"):
        path = tmp_path / f"captions.{ending}"
        run(captioning.main, tmp_path / "set", *SHORT, "--output", path)
        assert rows_of(path)[0]["path"] == f"{tmp_path}/set/\\udcff\\udce9.png"


def test_many_bad_ones_are_counted(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipped, "NAMED", 2)
    done = run(embedding.main, "bad", "--output", here / "x.npy", code=2)
    assert [line.partition(" ")[0] for line in done.err.splitlines()] == ["skipped"] * 3 + [
        "error:"
    ]
    assert "6 skipped (2 wrong_format, " in done.err


@pytest.mark.parametrize("size", [2, 64])
def test_features_of_pictures(
    here: Path, blip: LoadedBlip, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROWS", 4)
    expected = blip.embed_images(pictures_of(here)).numpy()
    for ending in ("npy", "parquet"):
        path = tmp_path / f"f.{ending}"
        done = run(embedding.main, "set", "shards", "bad", "--output", path, "--batch_size", size)
        assert done.err.splitlines()[-1].startswith(f"{path}: 9 pictures, 6 skipped")
    found = np.load(tmp_path / "f.npy", mmap_mode="r")
    assert (found.shape, found.dtype) == ((9, 16), np.float32)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()
    np.testing.assert_array_equal([row.pop("feature") for row in rows], found)
    assert rows == [json.loads(line) for line in (tmp_path / "f.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [*(f"set/{name}" for name in FILES), *SHARDS]
    assert len(list(tmp_path.iterdir())) == 3


def test_features_of_texts(here: Path, blip: LoadedBlip, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("a dog\n\ntwo, cats\n .! \n", encoding="utf-8")
    for name, words in {
        "given": ["--texts", tmp_path / "lines.txt"],
        "listed": ["list.json"],
    }.items():
        path = tmp_path / f"{name}.parquet"
        done = run(embedding.main, *words, "--what", "texts", "--output", path)
        assert "1 skipped (1 empty_caption)" in done.err
        rows = pq.read_table(path).to_pylist()
        texts = [row["text"] for row in rows]
        assert texts == ["a dog", "two, cats", *(["a", "x"] if name == "listed" else [])]
        found = np.array([row["feature"] for row in rows], np.float32)
        np.testing.assert_allclose(found, blip.embed_texts(texts).numpy(), rtol=0, atol=1e-5)
    assert [row["uid"] for row in rows] == ["b.PNG", "b.PNG", "gone.png", "mine"]


def test_a_line_ends_where_editors_end_it(here: Path, tmp_path: Path) -> None:
    lines = ["a\u2028dog", "a\x85cat\x0cand", "two"]
    (tmp_path / "lines.txt").write_bytes("\r\n".join(lines).encode())
    words = ("--texts", tmp_path / "lines.txt", "--what", "texts")
    run(embedding.main, *words, "--output", tmp_path / "f.parquet")
    rows = pq.read_table(tmp_path / "f.parquet").to_pylist()
    assert [(row["uid"], row["text"]) for row in rows] == [*zip("012", lines, strict=True)]


def test_endings_of_any_case_are_known(here: Path, tmp_path: Path) -> None:
    (tmp_path / "A.TAR").write_bytes((here / "shards" / "pairs_00000.tar").read_bytes())
    run(embedding.main, tmp_path, "--output", tmp_path / "f.parquet")
    assert len(pq.read_table(tmp_path / "f.parquet")) == 4


def test_scores_of_pairs(
    here: Path, blip: LoadedBlip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "PAIRS", 3)
    words = ["--what", "pairs", "--batch_size", 4]
    done = run(embedding.main, "shards", *words, "--output", tmp_path / "own.csv")
    assert "own.csv: 6 pairs, 0 skipped" in done.err
    with (tmp_path / "own.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    texts, pictures = [caption(n) for n in range(6)], [picture(n) for n in range(6)]
    assert [(row["path"], row["text"]) for row in rows] == list(zip(SHARDS, texts, strict=True))
    itm, itc = ([float(row[f"{name}_score"]) for row in rows] for name in ("itm", "itc"))
    assert itm == pytest.approx(blip.match(pictures, texts).tolist(), abs=1e-5)
    cosines = (blip.embed_images(pictures) * blip.embed_texts(texts)).sum(1)
    assert itc == pytest.approx(cosines.tolist(), abs=1e-5)

    given = '["a dog", "A red square!", " .! "]'
    done = run(embedding.main, "set", *words, "--texts", given, "--output", tmp_path / "all.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["a dog", "A red square!"] * 3
    itm = [row["itm_score"] for row in rows]
    pictures = [one for one in pictures_of(here)[:3] for _ in range(2)]
    expected = blip.match(pictures, ["a dog", "A red square!"] * 3)
    assert itm == pytest.approx(expected.tolist(), abs=1e-5)
    assert "texts: empty_caption" in done.err

    done = run(embedding.main, "set", *words, "--output", tmp_path / "none.csv", code=2)
    assert "nothing usable: 3 skipped (3 no_text)" in done.err


def test_little_is_read_ahead(blip: LoadedBlip, tmp_path: Path) -> None:
    """However many pictures there are, a batch and one more are in memory."""
    (tmp_path / "x.png").write_bytes(picture(0))
    files, read = PictureFiles([tmp_path / "x.png"] * 60), []

    class Watched(PictureFiles):
        def read(self, number: int) -> RawSample:
            read.append(number)
            return files.read(number)

    places, done = [Place(lambda: Watched(files._paths))], 0
    how = {"batch_size": 4, "threads": 2, "max_pixels": 10_000}
    with torch.no_grad():
        given = blip, places, Progress("", ""), skipped.Skipped()
        for samples, _ in encoded(*given, **how):
            done += len(samples)
            assert len(read) <= done + 4
    assert done == 60


def test_nothing_is_left_of_what_failed(here: Path, tmp_path: Path) -> None:
    for main in (captioning.main, embedding.main):
        path = tmp_path / "x.parquet"
        done = run(main, "shards", "--output", path, code=2, model="diverged")
        assert done.err.startswith("error: the model's states are not finite")
        assert not any(tmp_path.iterdir())
