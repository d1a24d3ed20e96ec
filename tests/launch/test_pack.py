"""`pack.py`: an index beside every shard, and no damaged byte that `verify` does not name."""

import io
import json
import os
import random
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.data import pack as engine_pack
from engine.data.index import index_path, open_index, read_index
from engine.data.shard_writer import ShardWriter
from engine.data.shards import Shards
from launch import pack
from tests.commands import Ended, call, contents
from tests.shards import picture, write_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three indexed shards of 6, 6 and 3 pairs."""
    return write_shards(tmp_path / "data", 15, per_shard=6)


def run(*words: object) -> Ended:
    return call(pack.main, *words)


def shard(folder: Path, number: int) -> Path:
    return folder / f"pairs_{number:05d}.tar"


def refused(*words: object) -> str:
    """The one line of a command that ends with 2."""
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err


def flip(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_whole_shards_pass_and_are_summed_up(folder: Path) -> None:
    before = contents(folder)
    done = run("verify", folder)
    megabytes = sum(path.stat().st_size for path in folder.glob("*.tar")) / 1e6
    verdict = "all whole (bytes as indexed; pictures are not decoded)"
    said = f"shards: 3, samples: 15, {megabytes:.1f} MB; {verdict}\n"
    assert done == Ended(0, said, "")
    assert contents(folder) == before


def test_index_builds_what_a_reader_would_build(folder: Path) -> None:
    before = contents(folder)
    for path in folder.glob("*.index"):
        path.unlink()
    done = run("index", folder)
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("all indexed\n")
    assert contents(folder) == before
    assert run("verify", folder).code == 0


def test_shards_are_named_in_every_way_and_taken_once(folder: Path) -> None:
    ways = [folder, f"{folder}/*.tar", f"{folder}/pairs_{{00000..00002}}.tar"]
    ways += sorted(folder.iterdir())
    for way in (*([w] for w in ways[:3]), ways):
        assert run("verify", *way).out.startswith("shards: 3, samples: 15,")
    assert run("verify", shard(folder, 2)).out.startswith("shards: 1, samples: 3,")


def test_an_index_is_never_written_over(folder: Path) -> None:
    flip(shard(folder, 0), open_index(shard(folder, 0)).places["image"][2, 0])
    before = contents(folder)
    assert run("index", folder).code == 0
    assert contents(folder) == before
    assert "00002 (image)" in refused("verify", folder)


def test_every_damaged_sample_is_named(folder: Path) -> None:
    for number, row, kind in ((0, 1, "image"), (0, 4, "txt"), (0, 4, "json"), (2, 0, "txt")):
        flip(shard(folder, number), open_index(shard(folder, number)).places[kind][row, 0])
    before = contents(folder)
    assert refused("verify", folder) == (
        f"error: 2 of 3 shards not whole: {shard(folder, 0)}: 2 of 6 samples damaged: "
        f"00001 (image), 00004 (txt, json); {shard(folder, 2)}: 1 of 3 samples damaged: "
        "00012 (txt)\n"
    )
    assert contents(folder) == before


def test_every_flipped_bit_of_a_shard_is_found(folder: Path) -> None:
    path, rng = shard(folder, 1), random.Random(0)
    whole = path.read_bytes()
    # Somewhere in the whole file, and in the last bytes, which no header and no member covers.
    positions = [rng.randrange(len(whole)) for _ in range(150)] + [len(whole) - 1]
    for position in positions:
        flip(path, position, rng.randrange(8))
        assert str(path) in refused("verify", folder)
        path.write_bytes(whole)
    assert run("verify", folder).code == 0


def test_every_truncation_is_found(folder: Path) -> None:
    path, rng = shard(folder, 1), random.Random(0)
    whole = path.read_bytes()
    for length in [0, 1, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(20))]:
        path.write_bytes(whole[:length])
        said = refused("verify", folder)
        assert f"{path} has {length} bytes but its index was made for {len(whole)}" in said
    path.write_bytes(whole + b"\0")
    assert "truncated or replaced" in refused("verify", folder)


def test_a_damaged_index_is_found_or_says_the_same(folder: Path) -> None:
    stored, rng = index_path(shard(folder, 0)), random.Random(0)
    whole, table = stored.read_bytes(), pq.read_table(stored)
    found = 0
    for _ in range(150):
        flip(stored, rng.randrange(len(whole)), rng.randrange(8))
        done = run("verify", folder)
        found += done.code == 2
        # Statistics and such in the file's footer are read by nobody.
        assert done.code == 2 or pq.read_table(stored).equals(table)
        assert done.err.count("\n") == (done.code == 2)
        stored.write_bytes(whole)
    assert found > 50
    for length in range(0, len(whole), 97):
        stored.write_bytes(whole[:length])
        assert f"{stored}: not a readable index" in refused("verify", folder)


def test_an_index_of_another_shard_is_found(folder: Path) -> None:
    assert shard(folder, 0).stat().st_size == shard(folder, 1).stat().st_size
    index_path(shard(folder, 0)).write_bytes(index_path(shard(folder, 1)).read_bytes())
    assert f"{shard(folder, 0)}: 6 of 6 samples damaged" in refused("verify", folder)


def test_what_is_missing_is_named_and_the_rest_still_read(folder: Path) -> None:
    index_path(shard(folder, 0)).unlink()
    shard(folder, 1).unlink()
    flip(shard(folder, 2), 600)
    said = refused("verify", folder)
    assert "2 of 3 shards not whole" in said
    bare = f"; 1 of 3 shards with no index yet, so nothing to compare with ({shard(folder, 0)}): "
    assert f"{bare}python launch/pack.py index SHARD... makes it\n" in said
    assert f"{shard(folder, 1)}: no such file, only its index is left" in said
    assert f"{shard(folder, 2)}: 1 of 3 samples damaged" in said
    said = refused("verify", f"{folder}/pairs_{{00001..00003}}.tar")
    assert f"{shard(folder, 3)}: no such file;" in f"{said.strip()};"


def test_the_good_are_indexed_beside_the_bad(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "data", 4, per_shard=2)
    index_path(shard(folder, 0)).unlink()
    (folder / "page.tar").write_text("<html>" * 200)
    (folder / "zero.tar").write_bytes(b"")
    (folder / "folder.tar").mkdir()
    said = refused("index", folder)
    assert "3 of 5 shards not indexed" in said
    assert f"{folder}/page.tar: not a tar file" in said
    assert f"{folder}/zero.tar: truncated at byte 0 of 0" in said
    assert f"{folder}/folder.tar: Is a directory" in said
    assert index_path(shard(folder, 0)).is_file()
    assert not (folder / "page.tar.index").exists()


def test_many_shards_show_progress(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_pack, "SECONDS_BETWEEN_LINES", -1.0)
    flip(shard(folder, 0), 600)
    done = run("verify", folder)
    assert done.out == "1 of 3 shards, 1 not whole\n2 of 3 shards, 1 not whole\n"
    assert done.code == 2


def test_hostile_metadata_stops_neither_index_nor_verify(tmp_path: Path) -> None:
    path = tmp_path / "hostile.tar"
    hostile = (b'{"uid": "\\ud800"}', b"[" * 100_000, b'{"uid": ' + b"9" * 5000 + b"}", b"\xff\0")
    with tarfile.TarFile(path, "w") as tar:
        for number, content in enumerate(hostile):
            info = tarfile.TarInfo(f"{number}.json")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert run("index", path).code == 0
    assert run("verify", path).out.startswith("shards: 1, samples: 4,")
    source = Shards([path])
    assert [source.read(number).uid for number in range(4)] == ["?", "1", "2", "3"]


def test_a_list_becomes_shards_that_cleaning_takes(tmp_path: Path) -> None:
    rows = [{"image": f"{number}.png", "caption": f"a thing {number}"} for number in range(5)]
    rows[1]["caption"] = ["one", "Zwei\u00e4"]
    rows.append({"image": "page.png", "caption": "a page"})
    rows.append({"image": "none.png", "caption": "nothing"})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    (tmp_path / "pictures").mkdir()
    for number in range(5):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(picture(number))
    (tmp_path / "pictures" / "page.png").write_bytes(b"<html>")
    words = ["convert", tmp_path / "pairs.json", "--image_root", tmp_path / "pictures"]
    words += ["--output_dir", tmp_path / "web", "--samples_per_shard", 4]
    done = run(*words)
    assert (done.code, done.err) == (0, "")
    assert "6 pairs" in done.out and "left out: 1 wrong_format, 1 missing" in done.out
    shards = Shards(sorted((tmp_path / "web").glob("*.tar")))
    found = [shards.read(number) for number in range(len(shards))]
    assert shards.lengths == [4, 2]
    texts = ["a thing 0", "one", "Zwei\u00e4", "a thing 2", "a thing 3", "a thing 4"]
    assert [one.captions for one in found] == [[text] for text in texts]
    assert [one.image for one in found] == [picture(n) for n in (0, 1, 1, 2, 3, 4)]
    assert found[1].image_id == found[2].image_id != found[0].image_id
    assert run("verify", tmp_path / "web").code == 0
    assert "holds shards already" in refused(*words)


def test_nothing_to_convert_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text('[{"image": "none.png", "caption": "a"}]')
    words = ["convert", tmp_path / "pairs.json", "--output_dir", tmp_path / "web"]
    said = f"1 missing: none.png ({tmp_path / 'pairs.json'} row 0); is --image_root right?"
    assert f"not one pair to pack: {said}" in refused(*words)
    assert "no --output_dir named" in refused("convert", tmp_path / "pairs.json")
    assert "belong to convert" in refused("index", tmp_path, "--output_dir", "x")


def test_what_a_captioner_wrote_stays_so(tmp_path: Path) -> None:
    """Packed anew, cleaned pairs are a captioner's or the web's as before."""
    texts = {"captions": ["found", "written", "unknown"], "sources": ["web", "synthetic"]}
    with ShardWriter(tmp_path / "cleaned", "pairs", 2) as writer:
        writer.add("0", picture(0), "png", "found", {"uid": "a", "capfilt": texts})
    for source, target in (("cleaned", "once"), ("once", "twice")):
        done = run("convert", tmp_path / source, "--output_dir", tmp_path / target)
        assert done.code == 0
        shards = Shards(sorted((tmp_path / target).glob("*.tar")))
        found = [shards.read(number) for number in range(len(shards))]
        assert [(one.uid, *one.captions, any(one.synthetic)) for one in found] == [
            ("a#0", "found", False),
            ("a#1", "written", True),
            ("a#2", "unknown", False),
        ]


def test_a_shard_may_have_any_name(folder: Path, tmp_path: Path) -> None:
    """A file's name is bytes; Arrow takes those alone that are UTF-8 text."""
    named = folder / os.fsdecode(b"pairs\xff.tar")
    shard(folder, 2).rename(named)
    index_path(shard(folder, 2)).unlink()
    for action in ("index", "verify"):
        assert run(action, folder).out.startswith("shards: 3, samples: 15")
    assert read_index(named).keys.to_pylist() == ["00012", "00013", "00014"]
    assert run("convert", named, "--output_dir", tmp_path / "web").code == 0
