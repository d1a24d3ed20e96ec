"""Results are taken again where the evaluation is the same and its weights are older."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from engine import checkpoint
from engine.config import DataSection, EvaluateSection, ModelSection, RunConfig, to_dict
from engine.stages import earlier_results

RESULTS = {"task": "retrieval", "metrics": {"text_to_image_r1": 0.5}}


def set_time(path: Path, seconds: int) -> None:
    os.utime(path, (seconds, seconds))


@pytest.fixture
def made(tmp_path: Path) -> RunConfig:
    """Of results that were made after the newest of two checkpoints."""
    run = tmp_path / "run" / "checkpoints"
    for step in (2, 4):
        path = checkpoint.write(run, step, {"model": {"a": torch.zeros(1)}}, {})
        set_time(path / "manifest.json", 1000 + step)
    config = RunConfig(
        output_dir=str(tmp_path / "results"), model=ModelSection(checkpoint=str(run.parent))
    )
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "results.json").write_text(json.dumps(RESULTS))
    (tmp_path / "results" / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    set_time(tmp_path / "results" / "results.json", 1005)
    return config


def test_the_same_evaluation_is_not_made_again(made: RunConfig) -> None:
    assert earlier_results(made, "retrieval") == RESULTS
    assert earlier_results(replace(made, device="cpu", tensorboard=False), "retrieval") == RESULTS
    assert earlier_results(made, "caption") is None


@pytest.mark.parametrize(
    "change",
    [
        {"data": DataSection(eval="others")},
        {"evaluate": EvaluateSection(shortlist=3)},
        {"precision": "fp32"},
        {"seed": 1},
    ],
)
def test_another_one_is(made: RunConfig, change: dict) -> None:
    assert earlier_results(replace(made, **change), "retrieval") is None


def test_weights_that_were_written_since_are_evaluated(made: RunConfig, tmp_path: Path) -> None:
    run = tmp_path / "run" / "checkpoints"
    set_time(run / "step_00000004" / "manifest.json", 1005)
    assert earlier_results(made, "retrieval") is None
    set_time(run / "step_00000004" / "manifest.json", 1004)
    set_time(run / "step_00000002" / "manifest.json", 2000)
    assert earlier_results(made, "retrieval") == RESULTS


def test_any_file_of_a_folder_of_weights_counts(made: RunConfig, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    config = replace(made, model=ModelSection(checkpoint=str(folder)))
    (tmp_path / "results" / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("")
        set_time(folder / name, 1001)
    assert earlier_results(config, "retrieval") == RESULTS
    set_time(folder / "config.json", 1006)
    assert earlier_results(config, "retrieval") is None


@pytest.mark.parametrize("name", ["results.json", "config.yaml"])
@pytest.mark.parametrize("content", ["", "[", "[]", None])
def test_what_is_not_whole_is_made_again(
    made: RunConfig, tmp_path: Path, name: str, content: str | None
) -> None:
    path = tmp_path / "results" / name
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert earlier_results(made, "retrieval") is None
