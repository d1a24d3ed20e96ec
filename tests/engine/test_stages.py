"""Programs one after the other in one process: nothing is left over, nothing is made twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import stages_run
from tests.commands import contents
from tests.forked import run
from tests.runs import metrics
from tests.shards import write_shards

pytestmark = pytest.mark.xdist_group("forked")
NAMES = ("pretrain", "captioner", "capfilt", "evaluation")
PROGRAM = stages_run.__name__


def left(said: str) -> dict[str, Any]:
    """What the program printed at its end."""
    return json.loads(next(line for line in said.splitlines() if line.startswith("{")))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder of all stages, and what was said."""
    folder = tmp_path_factory.mktemp("stages") / "runs"
    write_shards(folder / "data", 16, 8)
    ((code, said),) = run(PROGRAM, [folder, "--stage", 1], folder.with_name("log"))
    assert code == 0, said
    return folder, said


def test_a_stage_leaves_no_network_and_no_thread(ended: tuple[Path, str]) -> None:
    alive = left(ended[1])
    assert {name: alive[name]["weights"] for name in NAMES} == dict.fromkeys(NAMES, 0)
    # Of the whole run: one listens for a second signal.
    assert alive["evaluation"]["threads"] <= alive["pretrain"]["threads"]


def test_what_is_complete_is_not_made_again(ended: tuple[Path, str], tmp_path: Path) -> None:
    folder, said = ended
    before = contents(folder)
    ((code, again),) = run(PROGRAM, [folder, "--stage", 1], tmp_path / "log")
    assert code == 0, again
    assert contents(folder) == before
    assert again.count("complete") == 3
    assert "text_to_image_r1" in said and "text_to_image_r1" not in again
    assert left(again)["recall"] == left(said)["recall"]


def test_another_evaluation_is_made_anew(ended: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(ended[0], folder)
    results = folder / "pretrain" / "evaluation" / "results.json"
    # The copy's paths differ, so it is another one: of somebody else, but for its settings.
    settings = results.with_name("config.yaml")
    moved = settings.rename(folder / "settings.yaml")
    ((code, said),) = run(PROGRAM, [folder, "--stage", 1], tmp_path / "log")
    assert (code, "holds the retrieval results of" in said) == (2, True), said
    moved.rename(settings)
    ((code, said),) = run(PROGRAM, [folder, "--stage", 1], tmp_path / "log")
    assert (code, "text_to_image_r1" in said) == (0, True), said
    assert json.loads(results.read_text())["checkpoint"] == str(folder / "pretrain")


def test_a_signal_between_stages_is_noticed(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", 16, 8)
    for number, name in enumerate(NAMES[:3]):
        words = [tmp_path, "--stop_after", name]
        ((code, said),) = run(PROGRAM, words, tmp_path / "log")
        assert code == 75, said
        assert list(left(said)) == list(NAMES[: number + 1])
        assert not (tmp_path / NAMES[number + 1]).exists()


@pytest.mark.slow
def test_two_ranks_end_alike(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", 16, 8)
    words = [tmp_path, "--stage", 3]
    stopped = run(PROGRAM, [*words, "--stop_after", "captioner"], tmp_path / "log", ranks=2)
    assert [code for code, _ in stopped] == [75, 75], stopped
    assert not (tmp_path / "capfilt").exists()
    done = run(PROGRAM, words, tmp_path / "log", ranks=2)
    assert [code for code, _ in done] == [0, 0], done
    main, other = (left(said) for _, said in done)
    assert main["recall"] == other["recall"]
    assert {main[name]["weights"] for name in NAMES} == {0}
    assert len(metrics(tmp_path / "captioner")) == stages_run.STEPS
    (tmp_path / "pretrain" / "evaluation" / "results.json").write_text("{")
    refused = run(PROGRAM, words, tmp_path / "log", ranks=2)
    assert [code for code, _ in refused] == [2, 2], refused
    assert "was not written by an evaluation" in refused[0][1]
