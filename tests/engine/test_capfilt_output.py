"""What a run leaves: cleaned shards, tables, a ledger; and which folders it refuses to go on in."""

import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine import checkpoint
from engine.data.index import build_index, index_path
from engine.data.open_source import open_source
from engine.data.shard_writer import ShardWriter
from tests.capfilt_runs import EACH, SHARDS, clean, from_table, make_world, outcome
from tests.shards import bomb, caption, picture

COLUMNS = ["uid", "key", "source", "text", "itm_score", "itc_score", "kept", "reason"]
HOSTILE = "a caf\u00e9 \U0001f600\n\ttabs  & spaces "

pytestmark = pytest.mark.xdist_group("capfilt_output")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def done(world: Path) -> Path:
    """A finished run with two captions a picture."""
    ended = clean(world, world / "done", "--caption.samples", 2)
    assert ended.code == 0, ended.err
    assert "done: complete: 3 shards, " in ended.err
    assert " images/s" in ended.err.splitlines()[-1]
    return world / "done"


def table(folder: Path, name: str) -> list[dict]:
    return pq.read_table(folder / "table" / f"{name}.parquet").to_pylist()


def tables(folder: Path) -> list[dict]:
    return [
        row for path in sorted((folder / "table").iterdir()) for row in table(folder, path.stem)
    ]


def members(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}


def test_the_table_has_a_row_a_text_and_the_papers_rule(done: Path) -> None:
    rows = tables(done)
    assert list(rows[0]) == COLUMNS
    assert len(rows) == SHARDS * EACH * 3
    for number in range(SHARDS * EACH):
        mine = rows[3 * number : 3 * number + 3]
        assert [row["source"] for row in mine] == ["web", "synthetic", "synthetic"]
        assert {row["uid"] for row in mine} == {f"uid-{number}"}
        assert {row["key"] for row in mine} == {f"{number:05d}"}
        assert mine[0]["text"] == caption(number)
    for row in rows:
        assert row["kept"] == (row["itm_score"] >= 0.5)
        assert row["reason"] == ("matched" if row["kept"] else "unmatched")
    assert 0.1 < sum(row["kept"] for row in rows) / len(rows) < 0.9


def test_the_cleaned_shards_hold_what_was_kept(world: Path, done: Path) -> None:
    rows = tables(done)
    source = open_source(str(done / "shards"))
    read = {raw.key: raw for raw in map(source.read, range(len(source)))}
    for number in range(SHARDS * EACH):
        key = f"{number:05d}"
        kept = [row["text"] for row in rows if row["key"] == key and row["kept"]]
        assert (key in read) == bool(kept)
        if kept:
            raw = read[key]
            assert raw.captions == kept
            assert (raw.uid, raw.url) == (f"uid-{number}", f"http://example.org/{number}")
            assert raw.image == picture(number)
    for shard in sorted((done / "shards").glob("*.tar")):
        before, after = members(world / "data" / shard.name), members(shard)
        for name, content in after.items():
            key, _, suffix = name.partition(".")
            facts = json.loads(after[f"{key}.json"])
            if suffix == "png":
                assert content == before[name]
            elif suffix == "txt":
                assert content.decode() == facts["capfilt"]["captions"][0]
                assert facts["original_caption"].encode() == before[name]
                if facts["capfilt"]["sources"][0] == "web":
                    assert content == before[name]
            else:
                assert {**facts, **json.loads(before[name])} == facts


def test_the_ledger_says_what_went_in_and_came_out(world: Path, done: Path) -> None:
    for path in sorted((done / "ledger").iterdir()):
        entry = json.loads(path.read_text())
        shard = done / "shards" / f"{path.stem}.tar"
        assert entry["output"]["xxh3_128"] == build_index(shard).digest
        assert entry["input"]["fingerprint"] == build_index(world / "data" / shard.name).fingerprint
        assert entry["counts"]["pairs"] == EACH
    summary = json.loads((done / "summary.json").read_text())
    assert sum(summary["web"].values()) == SHARDS * EACH
    assert sum(summary["synthetic"].values()) == 2 * SHARDS * EACH
    times = [json.loads(line) for line in (done / "throughput.jsonl").read_text().splitlines()]
    assert sum(row["pictures"] for row in times) == SHARDS * EACH
    assert all(row["ended"] >= row["begun"] > 1.7e9 for row in times)
    assert not list((done / ".work" / "leases").iterdir())
    assert len(list((done / ".work").iterdir())) == 1


def test_the_rule_again_from_the_table_is_the_run_itself(world: Path, done: Path) -> None:
    ended = from_table(world, done, world / "same")
    assert ended.code == 0, ended.err
    # A speed of what is not finished would be that of reading the table.
    assert " 0 of 3 shards" not in f" {ended.err}"
    assert outcome(world / "same") == outcome(done)
    strict = ("--rule.itm_threshold", 0.6, "--rule.best_synthetic", 1)
    assert from_table(world, done, world / "strict", *strict).code == 0
    anew = clean(world, world / "strict_anew", "--caption.samples", 2, *strict)
    assert anew.code == 0, anew.err
    assert outcome(world / "strict") == outcome(world / "strict_anew")
    assert outcome(world / "strict") != outcome(done)


def test_the_table_gives_no_other_captions(world: Path, done: Path) -> None:
    ended = from_table(world, done, world / "more", "--caption.samples", 3)
    assert ended.code == 2
    assert "only the rule may differ" in ended.err
    assert "caption.samples 2 -> 3" in ended.err
    assert not (world / "more").exists()
    # The settings that they were made with may be said again.
    settings = ("--caption.samples", 2, "--caption.max_length", 7, "--caption.top_k", 40)
    assert from_table(world, done, world / "said_again", *settings).code == 0


def test_other_batches_round_otherwise_but_say_the_same(world: Path, done: Path) -> None:
    more = ("--caption.samples", 2, "--batch_size", 3)
    assert clean(world, world / "threes", *more).code == 0
    for one, other in zip(tables(done), tables(world / "threes"), strict=True):
        assert one["text"] == other["text"]
        assert one["itm_score"] == pytest.approx(other["itm_score"], abs=1e-4)
        assert one["itc_score"] == pytest.approx(other["itc_score"], abs=1e-5)


def test_started_again_there_is_nothing_to_do(world: Path, done: Path) -> None:
    before = outcome(done)
    again = clean(world, done, "--caption.samples", 2, "--data.workers", 1)
    assert again.code == 0
    assert "done: complete, nothing to do: 3 shards" in again.err
    assert outcome(done) == before


def test_shards_that_have_no_input_any_more_are_named(world: Path, done: Path) -> None:
    before, two = outcome(done), str(world / "data" / "pairs_0000[12].tar")
    again = clean(world, done, "--caption.samples", 2, "--data.train", two)
    assert again.code == 0
    said = "1 of these shards are not in data.train any more, their pairs stay: pairs_00000\n"
    assert said in again.err
    assert outcome(done) == before


def test_what_is_missing_is_made_again(world: Path, done: Path) -> None:
    before = outcome(done)
    (done / "table" / "pairs_00001.parquet").unlink()
    (done / "shards" / "pairs_00002.tar").write_bytes(b"short")
    (done / "ledger" / "pairs_00000.json").unlink()
    assert clean(world, done, "--caption.samples", 2).code == 0
    assert outcome(done) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--seed 1", "(seed 0 -> 1)"),
        ("--caption.top_p 0.8", "(caption.top_p 0.9 -> 0.8)"),
        ("--rule.itm_threshold 0.6 --batch_size 5", "(batch_size 4 -> 5, rule.itm_threshold 0.5"),
        ("--captioner OTHER", "(weights.captioner '"),
        ("--resume none", "holds a run already"),
    ],
)
def test_another_run_is_refused_in_its_folder(
    world: Path, done: Path, change: str, said: str, tmp_path: Path
) -> None:
    weights = checkpoint.read(world / "captioner").tensors["model"]
    weights["visual_encoder.norm.bias"] = weights["visual_encoder.norm.bias"] + 1e-3
    state = checkpoint.read(world / "captioner").state
    checkpoint.write_as(tmp_path / "other", 0, {"model": weights}, state)
    before = outcome(done)
    words = change.replace("OTHER", str(tmp_path / "other")).split()
    ended = clean(world, done, "--caption.samples", 2, *words)
    assert ended.code == 2
    assert said in ended.err
    assert ended.err.splitlines()[-1].startswith("error: ")
    assert outcome(done) == before


def test_another_input_is_refused(world: Path, done: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "data", tmp_path / "data")
    shutil.copytree(done, tmp_path / "done")
    with ShardWriter(tmp_path / "new", "pairs", EACH) as writer:
        for number in range(EACH):
            writer.add(f"{number:05d}", picture(number + 1), "png", caption(number), {})
    for name in ("pairs_00000.tar", "pairs_00000.tar.index"):
        shutil.copy(tmp_path / "new" / name, tmp_path / "data" / name)
    for ended in (
        clean(world, tmp_path / "done", "--caption.samples", 2, "--data.train", tmp_path / "data"),
        from_table(tmp_path, done, tmp_path / "table"),
    ):
        assert ended.code == 2
        assert "pairs_00000" in ended.err


def test_bad_samples_and_shards_are_set_apart_with_reasons(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    with ShardWriter(data, "pairs", 6) as writer:
        images = [picture(0), picture(1)[:60], b"<html>", bomb(20_000, 20_000), picture(4), b""]
        for number, image in enumerate(images):
            writer.add(
                f"{number:05d}", image, "png", HOSTILE if number else "", {"uid": f"u{number}"}
            )
        for number in range(6, 12):
            writer.add(f"{number:05d}", picture(number), "png", caption(number), {})
        for number in range(12, 18):
            writer.add(f"{number:05d}", picture(number), "png", caption(number), {})
    flipped = data / "pairs_00001.tar"
    content = bytearray(flipped.read_bytes())
    at = content.index(picture(7)) + 30
    content[at] ^= 1
    flipped.write_bytes(content)
    torn = data / "pairs_00002.tar"
    whole, index = torn.read_bytes(), index_path(torn).read_bytes()
    torn.write_bytes(whole[:2000])
    index_path(torn).unlink()
    keep_all = ("--data.train", data, "--rule.itm_threshold", 0)
    ended = clean(world, tmp_path / "out", *keep_all)
    assert ended.code == 0, ended.err
    assert "5 samples, 1 shards" in ended.err
    lines = [
        json.loads(line)
        for path in sorted((tmp_path / "out" / "quarantine").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [(line.get("uid"), line["reason"]) for line in lines[:-1]] == [
        ("u1", "truncated"),
        ("u2", "wrong_format"),
        ("u3", "too_many_pixels"),
        ("u5", "empty"),
        ("00007", "hash_mismatch"),
    ]
    assert lines[-1]["shard"] == "pairs_00002"
    assert "pairs_00002.tar: truncated at byte" in lines[-1]["reason"]
    first = members(tmp_path / "out" / "shards" / "pairs_00000.tar")
    assert sorted(first) == [f"0000{n}.{s}" for n in (0, 4) for s in ("json", "png", "txt")]
    assert first["00004.txt"] == HOSTILE.encode()
    assert json.loads(first["00000.json"])["original_caption"] == ""
    web = [r for r in table(tmp_path / "out", "pairs_00000") if r["source"] == "web"]
    assert [(r["reason"], r["itm_score"] is None) for r in web] == [
        ("empty_caption", True),
        ("matched", False),
    ]
    assert from_table(tmp_path, tmp_path / "out", tmp_path / "again", *keep_all[2:]).code == 0
    assert outcome(tmp_path / "again") == outcome(tmp_path / "out")
    # Repaired, the shard is made; the rest is not made again.
    torn.write_bytes(whole)
    index_path(torn).write_bytes(index)
    mended = clean(world, tmp_path / "out", *keep_all)
    assert mended.code == 0
    assert "5 samples, 0 shards" in mended.err
    assert len(members(tmp_path / "out" / "shards" / "pairs_00002.tar")) == 18


def test_nothing_kept_is_an_empty_shard_that_can_be_read(world: Path, tmp_path: Path) -> None:
    data = world / "data" / "pairs_00000.tar"
    ended = clean(world, tmp_path / "none", "--data.train", data, "--rule.itc_threshold", 1)
    assert ended.code == 0
    assert len(build_index(tmp_path / "none" / "shards" / "pairs_00000.tar")) == 0


def test_only_unreadable_shards_are_an_error(world: Path, tmp_path: Path) -> None:
    (tmp_path / "page.tar").write_text("<html>" * 200)
    ended = clean(world, tmp_path / "out", "--data.train", tmp_path / "page.tar")
    assert ended.code == 2
    assert "no shard could be read: " in ended.err


def test_a_damaged_ledger_is_one_line(world: Path, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "done")
    path = tmp_path / "done" / "ledger" / "pairs_00001.json"
    path.write_text(path.read_text()[:40])
    ended = clean(world, tmp_path / "done", "--caption.samples", 2)
    assert ended.code == 2
    assert f"{path}: damaged; delete it to make its shard again" in ended.err
