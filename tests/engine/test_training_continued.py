"""A run that goes on says what is otherwise than somebody may expect, and in its folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from engine.config import ModelSection, RunConfig, TrainSection, to_dict
from engine.training.drift import as_begun
from tests.forked import run, succeed
from tests.runs import metrics, write_config
from tests.shards import write_shards

pytestmark = pytest.mark.xdist_group("continued")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run of four steps."""
    folder = tmp_path_factory.mktemp("done")
    write_config(folder, "run", write_shards(folder / "data", 48))
    succeed("launch.pretrain", ["--config", folder / "run.yaml"], folder / "log")
    return folder


def go_on(done: Path, there: Path, *flags: object) -> tuple[int, str]:
    """A fifth step of a copy of the run: the exit code, and what it said."""
    words = ["--config", done / "run.yaml", "--train.max_steps", 5, "--output_dir", there, *flags]
    return run("launch.pretrain", words, there.with_name("log"))[0]


@pytest.fixture
def there(done: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder."""
    shutil.copytree(done / "run", tmp_path / "run")
    return tmp_path / "run"


def test_lines_that_are_none_are_left_out(done: Path, there: Path) -> None:
    with (there / "metrics.jsonl").open("ab") as file:
        file.write(b'\xff\xfe\x00{"step": 4\n[1]\n{"step": "5"}\n{"step": 5')
    code, said = go_on(done, there)
    assert code == 0, said
    assert [line["step"] for line in metrics(there)] == [1, 2, 3, 4, 5]
    assert "metrics.jsonl" not in said


def test_lines_that_are_missing_are_named(done: Path, there: Path) -> None:
    path = there / "metrics.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    code, said = go_on(done, there)
    assert code == 0, said
    assert [line["step"] for line in metrics(there)] == [1, 5]
    assert f"{path}: has no line of steps 2 to 4\n" in said


def test_lines_of_a_run_whose_checkpoints_are_gone_are_kept(done: Path, there: Path) -> None:
    shutil.rmtree(there / "checkpoints")
    before = (there / "metrics.jsonl").read_bytes()
    code, said = go_on(done, there)
    assert code == 0, said
    assert "4 steps were logged and no checkpoint holds any of them: starting anew" in said
    assert (there / "metrics_before.jsonl").read_bytes() == before
    assert [line["step"] for line in metrics(there)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", ["tensorboard", "metrics.jsonl", ".lock"])
def test_something_of_another_kind_is_one_line(done: Path, there: Path, name: str) -> None:
    path = there / name
    if name == "tensorboard":
        path.write_text("")
    else:
        path.unlink()
        path.mkdir()
    code, said = go_on(done, there, "--tensorboard", "true")
    assert code == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("error:")]
    assert name in line or str(there) in line
    assert "Traceback" not in said


def test_a_run_keeps_what_it_began_from(done: Path, there: Path) -> None:
    code, said = go_on(done, there, "--model.checkpoint", there / "nowhere")
    assert code == 0, said
    line = f"model.checkpoint {there}/nowhere is not looked at: the run began from nothing\n"
    assert line in said
    assert yaml.safe_load((there / "config.yaml").read_text())["model"]["checkpoint"] is None


def test_going_back_takes_another_folder(done: Path, there: Path, tmp_path: Path) -> None:
    """Of more checkpoints than are kept those of the highest steps stay."""
    long = ["--train.max_steps", 8, "--checkpoint.every", 2, "--checkpoint.keep_last", 3]
    assert go_on(done, there, *long)[0] == 0
    before = sorted(path.name for path in (there / "checkpoints").iterdir())
    first = there / "checkpoints" / "step_00000004"
    code, said = go_on(done, there, "--resume", first)
    assert code == 2
    assert f"{there} holds later checkpoints than {first} (step_00000008): choose another" in said
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == before
    code, said = go_on(done, tmp_path / "branch", "--resume", first)
    assert code == 0, said
    assert "has no line" not in said


def test_lines_that_are_gone_are_named(done: Path, there: Path) -> None:
    (there / "metrics.jsonl").unlink()
    code, said = go_on(done, there)
    assert code == 0, said
    assert "metrics.jsonl: has no line of steps 1 to 4\n" in said


def test_a_rate_that_another_length_changes_is_said() -> None:
    config = RunConfig(train=TrainSection(schedule="cosine", max_steps=8))
    state = {"config": to_dict(config)}
    assert as_begun(state, config, 8) == (config, [])
    longer = replace(config, train=replace(config.train, max_steps=16))
    _, (line,) = as_begun(state, longer, 8)
    assert line.startswith("16 steps in all, 8 steps until now: the rate of train.schedule cosine")
    # What is ignored changes nothing, and the step schedule's rate does not know the end.
    other = replace(config, train=replace(config.train, epochs=3))
    assert as_begun(state, other, 8) == (other, [])
    steps = replace(longer, train=replace(longer.train, schedule="step"))
    assert as_begun(state, steps, 8) == (steps, [])


def test_what_draws_otherwise_is_said() -> None:
    config = RunConfig(model=ModelSection(preset="large", checkpoint="runs/base"))
    state = {"config": to_dict(config), "micro_batch_size": 8}
    assert as_begun(state, config, 8) == (config, [])
    _, (line,) = as_begun(state, config, 4)
    assert line.startswith("4 pairs in a process's forward pass, 8 until now: the masks of dropout")
    assert "dropout and drop path are others" in line
    # Masks that nothing draws, and checkpoints that do not tell.
    exact = replace(config, model=replace(config.model, dropout=0.0, drop_path=0.0))
    assert as_begun(state, exact, 4) == (exact, [])
    del state["micro_batch_size"]
    assert as_begun(state, config, 4) == (config, [])
    moved = replace(
        config, model=replace(config.model, checkpoint=str(Path("runs/base").resolve()))
    )
    assert as_begun(state, moved, 4) == (config, [])
