"""`launch/capfilt.py` as users start it: ranks, launches, signals."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from engine.capfilt.config import RANGES, CapFiltConfig
from engine.config import ConfigError, to_dict
from launch import capfilt
from launch.cli import parse
from tests.capfilt_folder import data_of, words_of
from tests.capfilt_runs import clean, from_table, make_finished, outcome, words
from tests.commands import call
from tests.forked import run, succeed
from tests.ranks import ROOT, free_port

pytestmark = pytest.mark.xdist_group("capfilt_launch")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_finished(tmp_path_factory.mktemp("world"))


def resolved(*given: object) -> CapFiltConfig:
    return parse(CapFiltConfig, [str(word) for word in given], description="", examples="")


def test_two_ranks_make_what_one_process_makes(world: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "two", tmp_path / "log"
    main, other = succeed("launch.capfilt", words(world, output), log, ranks=2)
    assert outcome(output) == outcome(world / "alone")
    assert "two: complete" in main
    assert "kept " in main
    assert other == ""


@pytest.mark.slow
def test_the_deepspeed_launcher_starts_it(world: Path, tmp_path: Path) -> None:
    deepspeed = Path(sys.executable).with_name("deepspeed")
    port = ["--master_port", free_port()]
    command = [deepspeed, "--num_accelerators", 2, *port, "launch/capfilt.py"]
    done = subprocess.run(
        [*map(str, command), *words(world, tmp_path / "two")],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.returncode == 0, done.stderr
    assert outcome(tmp_path / "two") == outcome(world / "alone")


def test_a_signal_leaves_nothing_half_and_the_next_start_goes_on(
    world: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    # The first shard is finished, the second one is being written, beside the third one's scoring.
    given = ["SIGTERM", "*/.work/pairs_00001@*/pairs_00001.tar", 1, "launch.capfilt"]
    ((code, said),) = run("tests.at_file", [*given, *words(world, output)], tmp_path / "log")
    assert code == 75, said
    assert "stopped: 2 of 3 shards saved; start again to go on" in said
    assert [path.name for path in (output / ".work").iterdir()] == ["leases"]
    assert not list((output / ".work" / "leases").iterdir())
    saved = ["pairs_00000", "pairs_00001"]
    assert sorted(path.stem for path in (output / "ledger").iterdir()) == saved
    assert sorted(path.stem for path in (output / "shards").glob("*.tar")) == saved
    assert clean(world, output).code == 0
    assert outcome(output) == outcome(world / "alone")


def test_the_recipe_is_the_papers() -> None:
    """Li et al. 2022, sections 3.3 and 4.2; lengths and penalty from the original's sampler."""
    config = resolved("--config", ROOT / "launch" / "recipes" / "capfilt.yaml")
    caption, rule = config.caption, config.rule
    assert (caption.method, caption.top_p, caption.samples) == ("nucleus", 0.9, 1)
    assert (caption.top_k, caption.temperature, caption.penalty) == (0, 1.0, 1.1)
    assert (caption.min_length, caption.max_length) == (5, 20)
    assert caption.prompt == "a picture of "
    # 384 for those that the recipes tune; small ones would be asked for pictures they never saw.
    assert config.model.image_size is None
    assert rule == resolved().rule
    assert (rule.itm_threshold, rule.itc_threshold) == (0.5, None)
    assert (rule.best_synthetic, rule.at_most, rule.drop_duplicates) == (None, None, False)


def test_a_run_is_repeated_by_its_settings(world: Path, tmp_path: Path) -> None:
    saved = yaml.safe_load((world / "alone" / "config.yaml").read_text())
    again = resolved("--config", world / "alone" / "config.yaml", "--output_dir", tmp_path)
    assert {**to_dict(again), "output_dir": str(world / "alone")} == saved


def test_every_number_has_a_range() -> None:
    keys = set()
    for setting in dataclasses.fields(CapFiltConfig):
        inner = dataclasses.is_dataclass(setting.type)
        for one in dataclasses.fields(setting.type) if inner else (setting,):
            if "int" in str(one.type) or "float" in str(one.type):
                keys.add(f"{setting.name}.{one.name}" if inner else one.name)
    assert keys == set(RANGES)


def test_headings_of_the_help_are_short() -> None:
    assert "\nWhich texts stay:\n" in call(capfilt.main, "--help").out


@pytest.mark.parametrize("key", RANGES)
def test_a_number_outside_its_range_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is -2.*: must be "):
        resolved(f"--{key}", "-2")


def test_the_summary_counts_every_text(world: Path) -> None:
    summary = json.loads((world / "alone" / "summary.json").read_text())
    assert summary["shards"] == 3
    assert sum(summary["web"].values()) == sum(summary["synthetic"].values()) == summary["pairs"]


def test_a_run_ends_with_its_report(world: Path) -> None:
    page = (world / "alone" / "report.html").read_text()
    shown = data_of(page)["pictures"]
    assert len(shown) == 24
    assert all(one[-1] for one in shown)
    assert "of 24 web captions and" in words_of(page)
    times = (world / "alone" / "throughput.jsonl").read_text().splitlines()
    assert [json.loads(line)["pictures"] for line in times] == [8, 8, 8]


def test_by_default_what_is_no_words_is_dropped(world: Path, tmp_path: Path) -> None:
    plain = ("--rule.itm_threshold", 0)
    for name, drops in (("all", "false"), ("words", "true")):
        more = (*plain, "--rule.drop_not_words", drops)
        assert from_table(world, world / "alone", tmp_path / name, *more).code == 0
    every, some = (
        json.loads((tmp_path / name / "summary.json").read_text()) for name in ("all", "words")
    )
    assert every["synthetic"] == {"matched": 24}
    assert set(some["synthetic"]) == {"matched", "not_words"}
    assert some["web"] == every["web"]
    assert resolved().rule.drop_not_words


def test_a_run_that_keeps_nothing_says_what_to_do(world: Path, tmp_path: Path) -> None:
    ended = from_table(world, world / "alone", tmp_path / "out", "--rule.itc_threshold", 1)
    assert ended.code == 0
    assert "0 of 24 pictures, kept 0 % of web and 0 % of synthetic texts" in ended.err
    said = ended.err.splitlines()[-1]
    assert said.startswith(f"{tmp_path / 'out'}: not one of 48 texts was kept (")
    assert "tune it longer" in said and "--from_table with others needs no model" in said
    words = words_of((tmp_path / "out" / "report.html").read_text())
    assert "The filter kept none of 24 web captions and 24 synthetic captions." in words
    assert "Either the filter has learned too little to tell a match" in words


def test_a_run_does_without_its_report(
    world: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When it is told to, and when the report cannot be written: then in one line."""
    assert from_table(world, world / "alone", tmp_path / "out", "--report", "false").code == 0
    assert not (tmp_path / "out" / "report.html").exists()
    (tmp_path / "out" / "report.html").mkdir()
    again = from_table(world, world / "alone", tmp_path / "out")
    assert again.code == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in warnings if "report" in line] == [
        f"no report: {tmp_path / 'out' / 'report.html'}: Is a directory"
    ]
    assert not list((tmp_path / "out").glob(".report*"))
    (tmp_path / "out" / "report.html").rmdir()
    assert from_table(world, world / "alone", tmp_path / "out").code == 0
    assert (tmp_path / "out" / "report.html").is_file()
    assert outcome(tmp_path / "out") == outcome(world / "alone")


def test_no_flags_at_all_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    ended = call(capfilt.main)
    assert ended.code == 2
    assert ended.err == "error: no pairs: set data.train to tar shards\n"
    assert not list(tmp_path.iterdir())


def test_a_seed_that_made_no_caption_of_a_table_is_refused(world: Path, tmp_path: Path) -> None:
    ended = from_table(world, world / "alone", tmp_path / "out", "--seed", 7)
    assert ended.code == 2
    assert "captions and scores as they are, only the rule may differ (seed 0 -> 7)" in ended.err
