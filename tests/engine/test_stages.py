"""Programs one after the other in one process: nothing is left over, nothing is made twice."""

import json
import shutil
from pathlib import Path

import pytest

from tests import stages_run
from tests.commands import Ended, call, contents
from tests.ranks import run_ranks
from tests.runs import metrics
from tests.shards import write_shards

pytestmark = pytest.mark.xdist_group("stages_run")
NAMES = ("pretrain", "captioner", "capfilt", "evaluation")


def run(folder: Path, *words: object) -> Ended:
    return call(stages_run.main, folder, *words)


def last_line(said: str) -> dict:
    return json.loads(said.strip().splitlines()[-1])


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """All stages, in this process."""
    folder = tmp_path_factory.mktemp("stages")
    write_shards(folder / "data", 16, 8)
    done = run(folder, "--stage", 1)
    assert done.code == 0, done.err
    return folder, done


def test_a_stage_leaves_no_network_and_no_thread(ended: tuple[Path, Ended]) -> None:
    _, done = ended
    left = last_line(done.out)
    assert left["pretrain"]["weights"] == 0
    assert {left[name]["weights"] for name in NAMES} == {0}
    # Of the whole run: one listens for a second signal.
    assert left["evaluation"]["threads"] <= left["pretrain"]["threads"]


def test_what_is_complete_is_not_made_again(ended: tuple[Path, Ended]) -> None:
    folder, done = ended
    before = contents(folder)
    again = run(folder, "--stage", 1)
    assert again.code == 0, again.err
    assert contents(folder) == before
    assert again.err.count("complete") == 3
    assert "text_to_image_r1" in done.out and "text_to_image_r1" not in again.out
    assert last_line(again.out)["recall"] == last_line(done.out)["recall"]


def test_another_evaluation_is_made_anew(ended: tuple[Path, Ended], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(ended[0], folder)
    # The copy's paths differ, so it is another one.
    again = run(folder, "--stage", 1)
    assert again.code == 2
    assert "holds the retrieval results of" in again.err
    (folder / "pretrain" / "evaluation" / "results.json").write_text("{")
    again = run(folder, "--stage", 1)
    assert (again.code, "was not written by an evaluation" in again.err) == (2, True)
    (folder / "pretrain" / "evaluation" / "results.json").unlink()
    again = run(folder, "--stage", 1)
    assert (again.code, "text_to_image_r1" in again.out) == (0, True)


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_signal_between_stages_is_noticed(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path / "data", 16, 8)
    done = run(tmp_path, "--stop_after", name)
    assert done.code == 75, done.err
    made = NAMES[: NAMES.index(name) + 1]
    assert set(last_line(done.out)) == set(made)
    assert all((tmp_path / one).is_dir() for one in made)
    assert not any((tmp_path / one).exists() for one in NAMES[NAMES.index(name) + 1 : 3])


@pytest.mark.slow
def test_two_ranks_end_alike(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", 16, 8)
    command = ["-m", "tests.stages_run", str(tmp_path), "--stage", "3"]
    stopped = run_ranks([*command, "--stop_after", "captioner"], ranks=2)
    assert stopped.codes == [75, 75], stopped.said
    assert not (tmp_path / "capfilt").exists()
    done = run_ranks(command, ranks=2)
    assert done.codes == [0, 0], done.said
    main, other = (last_line(said) for said in done.said)
    assert main["recall"] == other["recall"]
    assert len(metrics(tmp_path / "captioner")) == stages_run.STEPS
    (tmp_path / "pretrain" / "evaluation" / "results.json").write_text("{")
    refused = run_ranks(command, ranks=2)
    assert refused.codes == [2, 2], refused.said
    assert "was not written by an evaluation" in refused.said[0]
