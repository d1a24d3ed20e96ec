"""Every mistake ends in one line, exit code 2, and nothing of what was there changed."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config import ConfigError, RunConfig
from engine.ranges import RANGES
from launch import (
    bootstrap,
    capfilt,
    caption,
    check,
    collect,
    convert,
    doctor,
    embed,
    evaluate,
    finetune,
    pack,
    pretrain,
    report,
)
from launch.cli import parse
from tests import mistakes_bulk, mistakes_capfilt, mistakes_video
from tests.commands import call, contents
from tests.mistakes import (
    COLLECT,
    CONVERT,
    EVALUATE,
    FILES,
    FINETUNE,
    PACK,
    PRETRAIN,
    REPORT,
    RUN,
)
from tests.misused import make_world
from tests.ranks import ROOT

Main = Callable[[], int | None]

# What each command is given rightly; a mistake is added behind it. OUT is a new folder.
GIVEN: dict[Main, str] = {
    pretrain.main: "--config run.yaml --output_dir OUT",
    finetune.main: "--config tuned.yaml --output_dir OUT",
    evaluate.main: "--config run.yaml --model.checkpoint tiny --data.eval data --output_dir OUT",
    report.main: "--run run --output OUT/report.html",
    collect.main: "--output_dir OUT",
    convert.main: "--from ours --input tiny --to ours --output OUT",
    pack.main: "verify",
    capfilt.main: "--data.train data --captioner tiny --filter tiny --output_dir OUT",
    caption.main: "data --model tiny --output OUT/captions.jsonl",
    embed.main: "data --model tiny --output OUT/features.parquet",
    bootstrap.main: "--data.web data --data.clean more --data.eval more --output_dir OUT "
    "--pretrain.model.preset tiny --pretrain.train.global_batch_size 8 "
    "--captioner.train.global_batch_size 8 --filter.train.global_batch_size 8",
}
# They take words, or have their own mistakes with files.
NO_FILES = (pack.main, caption.main, embed.main)

MISTAKES = [
    *((main, *case) for main in GIVEN if main not in NO_FILES for case in FILES),
    *((main, *case) for main in (pretrain.main, finetune.main, evaluate.main) for case in RUN),
    *((pretrain.main, *case) for case in PRETRAIN),
    *((finetune.main, *case) for case in FINETUNE),
    *((evaluate.main, *case) for case in EVALUATE),
    *((report.main, *case) for case in REPORT),
    *((collect.main, *case) for case in COLLECT),
    *((convert.main, *case) for case in CONVERT),
    *((pack.main, *case) for case in PACK),
    *((capfilt.main, *case) for case in mistakes_capfilt.CAPFILT),
    *((caption.main, *case) for case in mistakes_bulk.CAPTION),
    *((embed.main, *case) for case in mistakes_bulk.EMBED),
    *((bootstrap.main, *case) for case in mistakes_capfilt.BOOTSTRAP),
    *((finetune.main, *case) for case in mistakes_video.FINETUNE),
    *((evaluate.main, *case) for case in mistakes_video.EVALUATE),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder that mistakes are made in, and what it holds."""
    folder = make_world(tmp_path_factory.mktemp("world"))
    return folder, contents(folder)


def name(main: Main) -> str:
    return main.__module__.rpartition(".")[2]


@pytest.mark.parametrize(
    ("main", "mistake", "message"), MISTAKES, ids=[f"{name(m)} {w}" for m, w, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_changes_nothing(
    main: Main,
    mistake: str,
    message: str,
    world: tuple[Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, before = world
    monkeypatch.chdir(folder)
    new = tmp_path / "new"
    words = f"{GIVEN[main]} {mistake}".replace("OUT", str(new)).split(" ")
    done = call(main, *(words if mistake else words[:-1]))
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert message in done.err
    assert done.err.index("\n") == len(done.err) - 1
    assert contents(folder) == before
    # Conversion has told what it read by then.
    assert not done.out or (main is convert.main and done.out.startswith("read tiny"))
    # A run that was refused late has taken its folder, and put nothing into it.
    assert set(contents(tmp_path)) <= {"new", "new/.lock"}


@pytest.mark.parametrize(
    ("command", "mistake"),
    [
        ("pretrain", "--config run.yaml --output_dir OUT --model.checkpoint wide"),
        ("pretrain", "--config run.yaml --output_dir run --train.max_steps 2 --seed 3"),
        (
            "evaluate",
            "--config run.yaml --data.eval data --output_dir OUT --model.checkpoint rubbish.pth",
        ),
        ("pack", "verify data page.tar"),
    ],
)
def test_a_process_says_the_same(
    command: str, mistake: str, world: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, before = world
    words = mistake.replace("OUT", str(tmp_path / "new")).split()
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{command}.py"), *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert contents(folder) == before


def test_every_number_of_a_run_has_a_range() -> None:
    numbers = {"seed"} | {
        f"{section.name}.{setting.name}"
        for section in dataclasses.fields(RunConfig)
        if dataclasses.is_dataclass(section.type)
        for setting in dataclasses.fields(section.type)
        if "int" in str(setting.type) or "float" in str(setting.type)
    }
    assert numbers == set(RANGES)


@pytest.mark.parametrize("key", RANGES)
def test_a_number_outside_its_range_is_refused(key: str) -> None:
    value = "[-1, -1]" if key in ("train.betas", "data.weights") else "-1"
    with pytest.raises(ConfigError, match=f"{key} is -1.*: must be "):
        parse(RunConfig, [f"--{key}", value], description="", examples="")


@pytest.mark.parametrize("main", [*GIVEN, check.main, doctor.main], ids=name)
def test_help_explains_every_flag_and_shows_examples(main: Main) -> None:
    done = call(main, "--help")
    assert (done.code, done.err) == (0, "")
    usage, _, examples = done.out.partition("examples:\n")
    assert f"usage: python launch/{name(main)}.py" in usage
    lines = [line for line in examples.splitlines() if line.startswith("  ")]
    assert sum(f"launch/{name(main)}.py" in line for line in lines) >= 2
    words = {word for line in lines for word in line.split() if word.startswith("--")}
    assert words <= set(usage.replace(",", " ").split())
