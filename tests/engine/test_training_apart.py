"""Machines that were given different things: all processes end, and the first one says why."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.demo_server import write_weights
from tests.forked import run
from tests.runs import write_config
from tests.shards import write_shards

TRAIN = "tests.train_apart"


def other_pairs(folder: Path) -> None:
    shutil.rmtree(folder / "data")
    write_shards(folder / "data", 24)


def other_settings(folder: Path) -> None:
    config = folder / "run.yaml"
    config.write_text(config.read_text().replace("learning_rate: 0.001", "learning_rate: 0.002"))


def no_pairs(folder: Path) -> None:
    shutil.rmtree(folder / "data")


def no_weights(folder: Path) -> None:
    shutil.rmtree(folder / "both")


def own_output(folder: Path) -> None:
    config = folder / "run.yaml"
    for place in (folder, folder.with_name("0")):
        place.joinpath(config.name).write_text(config.read_text().replace("../out", "out"))


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (own_output, "error: output_dir out: put it on a disk that all machines share"),
        (other_pairs, "error: data.train: process 1 finds other pairs than process 0: give all"),
        (other_settings, "other settings than process 0 (train.learning_rate 0.001 -> 0.002)"),
        (no_pairs, "error: data: no such file or folder"),
        (no_weights, "error: both: "),
    ],
)
def test_what_one_machine_lacks_ends_all(
    mistake: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    first, second = tmp_path / "0", tmp_path / "1"
    first.mkdir()
    write_shards(first / "data", 48)
    write_weights(first)
    start = {"checkpoint": "both"}
    config = write_config(first, "run", Path("data"), model=start, output_dir="../out")
    shutil.copytree(first, second)
    mistake(second)
    ended = run(TRAIN, [tmp_path, "--config", config.name, "--device", "cpu"], tmp_path / "log", 2)
    assert [code for code, _ in ended] == [2, 2], ended
    assert said in ended[0][1]
    assert ended[0][1].count("error: ") == 1
    assert ended[1][1] == ""
    assert not (tmp_path / "out" / "config.yaml").exists()
