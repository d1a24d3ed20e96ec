"""Evaluation by several ranks: the figures of one, bit for bit, and one end for all."""

import json
from pathlib import Path

import pytest
import torch

from engine.data.held_out import HeldOut, Own
from engine.evaluation.run import evaluate
from engine.folder_lock import hold
from tests.evaluation_ranks import TASKS, configurations, write_world
from tests.forked import run, succeed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, weights, and what one process finds."""
    folder = write_world(tmp_path_factory.mktemp("ranks"))
    for task, config in configurations(folder, folder / "alone"):
        evaluate(config, task)
    return folder


def written(folder: Path) -> dict[str, object]:
    """Every file of JSON below a folder, without what a clock says."""
    found = {}
    for path in sorted(folder.rglob("*.json")):
        found[str(path.relative_to(folder))] = tree = json.loads(path.read_text())
        if path.name == "results.json":
            assert tree.pop("seconds") > 0
    return found


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_find_what_one_process_finds(world: Path, tmp_path: Path, ranks: int) -> None:
    said = succeed("tests.evaluation_ranks", [world, tmp_path / "out"], tmp_path / "log", ranks)
    assert [len(one) > 0 for one in said] == [rank == 0 for rank in range(ranks)]
    alone, together = written(world / "alone"), written(tmp_path / "out")
    assert together == alone
    for name in ("results.json", "cases.json"):
        assert {path.partition("/")[0] for path in alone if path.endswith(name)} == set(TASKS)
    # 9 pictures of 11 good rows in three of six batches, one batch without any.
    assert alone["retrieval/results.json"]["count"] == 9
    assert alone["retrieval/results.json"]["bad_samples"] == 5


def test_a_row_is_gathered_without_its_batch() -> None:
    """A row of a tensor brings its whole storage along where it is sent by itself."""
    found = HeldOut(source=[], image_size=8, max_words=1, max_pixels=1)
    found.own = [Own(0, [2, 0], range(2))]
    made = torch.arange(12.0).view(3, 4)
    rows = found.gathered([made])
    assert [row.tolist() for row in rows] == [made[2].tolist(), made[0].tolist()]
    assert rows[0].untyped_storage().nbytes() == 2 * 4 * 4


def words_of(world: Path, output: Path, model: str = "med") -> list[object]:
    """A retrieval's command line."""
    return [
        *("--task", "retrieval", "--device", "cpu", "--precision", "fp32"),
        *("--model.checkpoint", world / model, "--model.preset", "tiny"),
        *("--data.eval", world / "rows.json", "--output_dir", output),
        *("--evaluate.batch_size", 3, "--evaluate.shortlist", 4, "--evaluate.max_length", 8),
        *("--evaluate.min_length", 2, "--evaluate.num_beams", 2, "--data.max_bad_fraction", 0.4),
    ]


def test_the_command_shares_the_work_of_ranks(world: Path, tmp_path: Path) -> None:
    said = succeed("launch.evaluate", words_of(world, tmp_path / "out"), tmp_path / "log", 2)
    assert "text_to_image_r1 " in said[0] and said[1] == ""
    alone = written(world / "alone" / "retrieval")["results.json"]
    assert written(tmp_path / "out")["results.json"] == alone


@pytest.mark.parametrize("failing", ["first", "second"])
def test_an_error_of_one_rank_ends_all_with_one_line(
    world: Path, tmp_path: Path, failing: str
) -> None:
    """The first alone writes, so it alone finds a file there; the second is given no weights."""
    log = tmp_path / "log"
    if failing == "first":
        (tmp_path / "out").write_text("mine")
        ended = run("launch.evaluate", words_of(world, tmp_path / "out"), log, 2)
        expected = f"error: output_dir {tmp_path}/out: cannot be written: File exists\n"
    else:
        ended = run("tests.evaluation_ranks", [world, tmp_path / "out", 1], log, 2)
        expected = f"error: {world}/nothing: no such file or folder\n"
    assert [code for code, _ in ended] == [2, 2]
    first, second = (said for _, said in ended)
    errors = [line for line in first.splitlines(keepends=True) if not line.startswith("INFO: ")]
    assert (errors, second) == ([expected], "")


def test_a_folder_takes_one_evaluation_at_a_time(world: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    out.mkdir()
    with hold(out) as is_free:
        assert is_free
        ((code, said),) = run("launch.evaluate", words_of(world, out), log)
    assert code == 2
    assert said.splitlines()[-1] == f"error: output_dir {out}: another evaluation is writing here"
    assert not list(out.iterdir())
    succeed("launch.evaluate", words_of(world, out), log)
