"""DeepSpeed is given what the run says: what the user's JSON adds changes nothing of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from engine.config import ConfigError, DeepSpeedSection, RunConfig, TrainSection
from engine.training.deepspeed_settings import deepspeed_config

OFFLOAD = {"offload_optimizer": {"device": "cpu"}}


def settings(folder: Path, stage: int, **extra: Any) -> dict[str, Any]:
    """Of a run that clips at 2, 8 pairs a pass and 3 passes a step, with a JSON where it says."""
    path = folder / "extra.json"
    path.write_text(json.dumps(extra))
    section = DeepSpeedSection(stage=stage, config=str(path) if extra else None)
    return deepspeed_config(RunConfig(train=TrainSection(clip_norm=2.0), deepspeed=section), 8, 3)


@pytest.mark.parametrize(
    ("stage", "zero", "clip_norm", "norm"),
    [
        (0, {}, 0.0, None),
        (1, {}, 0.0, False),
        (2, {"overlap_comm": True}, 0.0, False),
        (1, OFFLOAD, 2.0, True),
        (2, OFFLOAD, 2.0, True),
        (3, {}, 2.0, None),
    ],
)
def test_one_of_both_clips(
    tmp_path: Path, stage: int, zero: dict, clip_norm: float, norm: bool | None
) -> None:
    found = settings(tmp_path, stage, **({"zero_optimization": zero} if zero else {}))
    assert found["gradient_clipping"] == clip_norm
    known = {"stage": stage, **zero}
    assert found["zero_optimization"] == known | (
        {} if norm is None else {"compute_grad_norm": norm}
    )


def test_batches_are_the_runs_and_more_may_be_added(tmp_path: Path) -> None:
    found = settings(tmp_path, 1, wall_clock_breakdown=True)
    assert found["train_micro_batch_size_per_gpu"] == 8
    assert found["gradient_accumulation_steps"] == 3
    assert found["wall_clock_breakdown"] is True


@pytest.mark.parametrize(
    "name",
    [
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        *("gradient_clipping", "optimizer", "scheduler", "fp16", "bf16", "amp"),
    ],
)
def test_what_the_run_sets_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is set by the run; take it out"):
        settings(tmp_path, 1, **{name: 1})


@pytest.mark.parametrize("content", ["[]", '{"zero_optimization": 1}'])
def test_what_is_no_object_of_settings_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "extra.json"
    path.write_text(content)
    config = RunConfig(deepspeed=DeepSpeedSection(config=str(path)))
    with pytest.raises(ConfigError, match="expected an object of settings"):
        deepspeed_config(config, 8, 1)
