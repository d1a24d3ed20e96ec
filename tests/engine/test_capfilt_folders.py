"""Folders of other versions, half begun, damaged, or named in another way."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from engine.capfilt.identity import FORMAT, hash_identity, of_settings, refuse_other
from engine.config import ConfigError
from launch import capfilt
from launch.cli import parse
from tests.capfilt_runs import clean, from_table, make_finished, outcome, words

pytestmark = pytest.mark.xdist_group("capfilt_folders")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_finished(tmp_path_factory.mktemp("world"))


@pytest.fixture
def done(world: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(world / "alone", tmp_path / "done"))


def change(path: Path, edit: Callable[[dict], object]) -> None:
    """Edit a JSON file by hand."""
    facts = json.loads(path.read_text())
    edit(facts)
    path.write_text(json.dumps(facts))


def of_format(folder: Path, version: int) -> None:
    """As a run of an earlier version left it: the ledger names the hash of its identity."""
    change(folder / "run.json", lambda facts: facts.update(format=version))
    run = hash_identity(json.loads((folder / "run.json").read_text()))
    for path in (folder / "ledger").iterdir():
        change(path, lambda facts: facts.update(run=run))


def test_settings_are_those_of_the_run_whose_folder_it_is(world: Path, tmp_path: Path) -> None:
    # Killed before it said what it is: another one may take its place.
    output = tmp_path / "out"
    (output / ".work").mkdir(parents=True)
    (output / "config.yaml").write_text("seed: 1\n")
    assert clean(world, output, "--seed", 5).code == 0
    assert yaml.safe_load((output / "config.yaml").read_text())["seed"] == 5
    refused = clean(world, output, "--seed", 6)
    assert refused.code == 2
    assert "seed 5 -> 6" in refused.err
    assert yaml.safe_load((output / "config.yaml").read_text())["seed"] == 5


def test_an_earlier_version_is_not_continued_but_read(
    world: Path, done: Path, tmp_path: Path
) -> None:
    of_format(done, FORMAT - 1)
    refused = clean(world, done)
    assert refused.code == 2
    assert f"made by another version, whose numbers are rounded otherwise (format {FORMAT - 1}" in (
        refused.err
    )
    assert (
        f"choose another output_dir, or take its captions and scores with --from_table {done}"
        in (refused.err)
    )
    assert from_table(world, done, tmp_path / "again").code == 0
    parts = ("shards/", "table/", "quarantine/")
    again, first = (
        {name: digest for name, digest in outcome(folder).items() if name.startswith(parts)}
        for folder in (tmp_path / "again", world / "alone")
    )
    assert again == first
    of_format(done, 1)
    refused = from_table(world, done, tmp_path / "older")
    assert refused.code == 2
    assert "format 1, this one's is" in refused.err


def test_a_table_gives_no_other_scores(world: Path, done: Path, tmp_path: Path) -> None:
    for other, said in (("--batch_size 5", "batch_size 4 -> 5"), ("--data.max_words 9", "30 -> 9")):
        refused = from_table(world, done, tmp_path / "other", *other.split())
        assert refused.code == 2
        assert f"only the rule may differ ({'data.max_words ' * ('max' in other)}{said})" in (
            refused.err
        )
    assert from_table(world, done, tmp_path / "same", "--batch_size", 4).code == 0


@pytest.mark.parametrize(
    "edit",
    [
        lambda facts: facts.update(output={}),
        lambda facts: facts["counts"].update(web=5),
        lambda facts: facts.update(table={}),
        lambda facts: facts.update(input={"bytes": 1}),
        lambda facts: facts["counts"].update(pairs="8"),
    ],
    ids=["output", "counts", "table", "input", "pairs"],
)
def test_a_ledger_that_lacks_something_is_one_line(
    world: Path, done: Path, tmp_path: Path, edit: Callable[[dict], object]
) -> None:
    path = done / "ledger" / "pairs_00001.json"
    change(path, edit)
    for ended in (clean(world, done), from_table(world, done, tmp_path / "rule")):
        assert ended.code == 2
        assert f"{path}: damaged; delete it to make its shard again" in ended.err


def test_an_identity_that_lacks_something_is_one_line(world: Path, done: Path) -> None:
    change(done / "run.json", lambda facts: facts.pop("caption"))
    for ended in (clean(world, done), from_table(world, done, world / "none")):
        assert ended.code == 2
        assert "run.json: damaged, it does not say what run this is" in ended.err


def test_what_is_noted_names_no_path(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Path(shutil.copytree(world / "data", tmp_path / "data"))
    (data / "junk.tar").write_bytes(os.urandom(4096))
    monkeypatch.chdir(tmp_path)
    for spelled, output in ((data, "one"), (Path("data"), "other")):
        assert clean(world, tmp_path / output, "--data.train", spelled).code == 0
    assert outcome(tmp_path / "one") == outcome(tmp_path / "other")
    assert json.loads((tmp_path / "one/ledger/junk.json").read_text())["reason"].startswith("junk")


def test_a_check_knows_the_threads_that_are_given(
    world: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(threads: int) -> capfilt.CapFiltConfig:
        given = words(world, done, "--threads", threads)
        monkeypatch.setattr("sys.argv", ["capfilt.py", *given])
        return parse(capfilt.CapFiltConfig, description="", examples="")

    refuse_other(config(1), of_settings(config(1)), whole=False)
    with pytest.raises(ConfigError, match="threads 1 -> 2"):
        refuse_other(config(2), of_settings(config(2)), whole=False)
