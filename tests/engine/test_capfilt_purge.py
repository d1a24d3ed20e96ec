"""Pictures taken out of a cleaned set: shard, table, ledger and report together."""

import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from engine import durable
from engine.capfilt import purge as purging
from engine.capfilt.config import CapFiltConfig, PairsSection, RuleSection
from engine.check.run import check_cleaning
from engine.collect.web.purge import purge
from engine.config import ConfigError
from engine.data.index import ShardError
from engine.data.kept_texts import KeptTexts
from tests.capfilt_runs import EACH, SHARDS, clean, from_table, make_finished, outcome
from tests.check_runs import HOST
from tests.shards import write_shards

OUT = ("uid-0", "uid-3", "uid-9")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_finished(tmp_path_factory.mktemp("world"))


@pytest.fixture
def cleaned(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "alone", tmp_path / "cleaned"))


@pytest.fixture
def uids(tmp_path: Path) -> Path:
    (tmp_path / "uids.txt").write_text("\n".join(OUT))
    return tmp_path / "uids.txt"


def rows(folder: Path) -> list[dict]:
    return [
        row for path in sorted(folder.glob("table/*")) for row in pq.read_table(path).to_pylist()
    ]


def test_nothing_of_them_stays_and_all_else_does(cleaned: Path, uids: Path) -> None:
    before, kept = rows(cleaned), KeptTexts(cleaned)
    texts = {(s.uid, *s.captions) for s in map(kept.read, range(len(kept)))}
    # Of a loop that the set is a part of, and a page of somebody else's.
    shutil.copy(cleaned / "report.html", cleaned.parent / "report.html")
    (cleaned.parents[1] / "report.html").write_text("<!doctype html>")
    written = len({row["uid"] for row in before if row["kept"] and row["uid"] in OUT})
    assert written and {row["uid"] for row in before} >= {*OUT}
    assert purge(uids, [str(cleaned)]) == written
    assert rows(cleaned) == [row for row in before if row["uid"] not in OUT]
    left = KeptTexts(cleaned)
    assert {(s.uid, *s.captions) for s in map(left.read, range(len(left)))} == {
        one for one in texts if one[0] not in OUT
    }
    assert not (cleaned / "report.html").exists()
    assert not (cleaned.parent / "report.html").exists()
    assert (cleaned.parents[1] / "report.html").exists()
    (cleaned.parents[1] / "report.html").unlink()
    noted = [json.loads(line) for line in (cleaned / "purged.jsonl").read_text().splitlines()]
    assert {one["uid"] for one in noted} <= {*OUT}
    after = outcome(cleaned)
    assert purge(uids, [str(cleaned)]) == 0
    assert outcome(cleaned) == after


@pytest.mark.parametrize("purged", ["cleaned", "both"])
def test_a_run_that_comes_back_makes_nothing_again(
    world: Path, cleaned: Path, uids: Path, purged: str, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    purge(uids, [str(cleaned), *([str(data)] if purged == "both" else [])])
    after = outcome(cleaned)
    ended = clean(world, cleaned, "--data.train", data)
    assert ended.code == 0, ended.err
    assert outcome(cleaned) == after
    left = rows(cleaned)
    assert not {row["uid"] for row in left} & {*OUT}
    # Every count is of what is there now.
    summary = json.loads((cleaned / "summary.json").read_text())
    assert summary["pairs"] == len({row["uid"] for row in left}) == SHARDS * EACH - len(OUT)
    assert summary["written"] == len({row["uid"] for row in left if row["kept"]})
    texts = [row for row in left if row["source"] == "synthetic"]
    assert sum(summary["synthetic"].values()) == len(texts)
    assert f"{summary['written']} of {summary['pairs']} pictures" in ended.err


@pytest.mark.parametrize(("where", "point"), [(durable, "sync"), (purging, "digest_of")])
def test_killed_in_the_middle_the_next_one_ends_it(
    cleaned: Path, uids: Path, where: ModuleType, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    whole = Path(shutil.copytree(cleaned, cleaned.with_name("whole")))
    purge(uids, [str(whole)])
    with monkeypatch.context() as patched:
        patched.setattr(where, point, killed)
        with pytest.raises(KeyboardInterrupt):
            purge(uids, [str(cleaned)])
    purge(uids, [str(cleaned)])
    parts = ("shards", "table", "ledger")
    assert all(
        same == outcome(whole)[name]
        for name, same in outcome(cleaned).items()
        if name.startswith(parts) and not name.endswith(".partial")
    )
    assert not [*cleaned.rglob("*.partial")]
    KeptTexts(cleaned)


def test_a_part_of_it_is_refused(cleaned: Path, uids: Path) -> None:
    for part in (cleaned / "shards", next((cleaned / "shards").glob("*.tar"))):
        with pytest.raises(ConfigError, match=f"part of a cleaned set: name its folder, {cleaned}"):
            purge(uids, [str(part)])


def test_while_a_run_is_at_work_it_is_refused(cleaned: Path, uids: Path) -> None:
    (cleaned / ".work" / "leases").mkdir(parents=True, exist_ok=True)
    (cleaned / ".work" / "leases" / "pairs_00000@1").touch()
    before = outcome(cleaned)
    with pytest.raises(ConfigError, match="a run is at work there, or was stopped"):
        purge(uids, [str(cleaned)])
    assert outcome(cleaned) == before


def test_a_damaged_table_is_named_and_the_others_are_done(cleaned: Path, uids: Path) -> None:
    (cleaned / "table" / "pairs_00001.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ShardError, match="1 of 3 shards .*pairs_00001.parquet: not a readable"):
        purge(uids, [str(cleaned)])
    first = pq.read_table(cleaned / "table" / "pairs_00000.parquet").to_pylist()
    assert not {row["uid"] for row in first} & {*OUT}


def test_shards_that_were_published_elsewhere_are_said(cleaned: Path, uids: Path) -> None:
    (cleaned / "shards" / "pairs_00000.tar").unlink()
    with pytest.raises(ShardError, match="pairs_00000.tar: is not here, only its table"):
        purge(uids, [str(cleaned)])
    assert not {row["uid"] for row in rows(cleaned)} & {*OUT}


@pytest.mark.parametrize("order", ["data cleaned", "cleaned data", "data", "data first"])
def test_another_rule_needs_no_model_after_a_purge(
    world: Path, cleaned: Path, uids: Path, order: str, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    if order == "data first":
        (tmp_path / "one.txt").write_text(OUT[0])
        purge(tmp_path / "one.txt", [str(data)])
    for place in order.replace("first", "").split():
        purge(uids, [str({"data": data, "cleaned": cleaned}[place])])
    ended = from_table(tmp_path, cleaned, tmp_path / "new", "--rule.itm_threshold", 0)
    assert ended.code == 0, ended.err
    assert len({row["uid"] for row in rows(tmp_path / "new")} - {*OUT}) == SHARDS * EACH - len(OUT)
    assert not {row["uid"] for row in rows(tmp_path / "new")} & {*OUT}
    for output in ("new", "another"):
        assert said_before(cleaned, data, tmp_path / output) == []


def test_another_shard_is_refused_by_run_and_check(
    world: Path, cleaned: Path, uids: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    purge(uids, [str(data), str(cleaned)])
    # What was purged of others says nothing of this one.
    shutil.copy(write_shards(tmp_path / "other", 7) / "pairs_00000.tar", data)
    (data / "pairs_00000.tar.index").unlink()
    ended = from_table(tmp_path, cleaned, tmp_path / "new")
    assert ended.code == 2
    assert f"was made from another shard than {data / 'pairs_00000.tar'}, which no" in ended.err
    (said,) = said_before(cleaned, data, tmp_path / "another")
    assert said in ended.err


def said_before(cleaned: Path, data: Path, output: Path) -> list[str]:
    """What a check of a run with another rule finds wrong."""
    config = CapFiltConfig(
        from_table=str(cleaned),
        data=PairsSection(train=str(data)),
        output_dir=str(output),
        device="cpu",
        rule=RuleSection(itm_threshold=0, drop_not_words=False),
    )
    return [one.line for one in check_cleaning(config, HOST) if one.severity == "error"]


def test_a_dropped_picture_is_known_by_the_url_in_the_shard_it_came_from(
    world: Path, cleaned: Path, uids: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = {row["uid"] for row in rows(cleaned) if row["kept"]}
    dropped = sorted({row["uid"] for row in rows(cleaned)} - kept)[0]
    url, other = (f"http://example.org/{uid[4:]}" for uid in (dropped, min(kept)))
    strange = write_shards(tmp_path / "strange", SHARDS * EACH, EACH + 1)
    uids.write_text(url)
    with pytest.raises(ConfigError, match="none of its 1 uids and URLs"):
        purge(uids, [str(cleaned)])
    # What has its name and keys is not what it was made from.
    assert purge(uids, [str(strange), str(cleaned)]) == 1
    assert dropped in {row["uid"] for row in rows(cleaned)}
    uids.write_text(f"{url}\n{other}")
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    purge(uids, [str(data), str(cleaned)])
    assert not {row["uid"] for row in rows(cleaned)} & {dropped, min(kept)}
    again = f"{cleaned / 'report.html'}: deleted, .* python launch/report.py --run {cleaned} makes"
    assert re.search(again, caplog.text)
