"""A run goes on from its own checkpoint or not at all, and with the arithmetic that it began."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import checkpoint
from engine.checkpoint import CheckpointError
from engine.config import ConfigError, RunConfig, to_dict
from engine.training.drift import refuse_drift
from engine.training.run_folder import find_checkpoint

ARITHMETIC = [
    *("seed", "precision", "model.preset", "model.image_size", "model.dropout", "model.drop_path"),
    *("model.queue_size", "model.momentum", "model.alpha", "model.alpha_ramp_epochs"),
    *("model.label_smoothing", "data.weights", "data.max_words", "data.max_tokens"),
    *("data.min_crop_scale", "data.horizontal_flip", "data.rand_augment", "data.shuffle_window"),
    *("data.fast_views", "data.max_pixels", "data.frames", "data.curriculum"),
    *("train.global_batch_size", "train.negative_group_size", "train.learning_rate"),
    *("train.min_learning_rate", "train.warmup_steps", "train.warmup_learning_rate"),
    *("train.schedule", "train.decay", "train.weight_decay", "train.betas", "train.eps"),
    *("train.clip_norm", "train.contrast_only"),
]
FREE = [
    *("output_dir", "device", "checkpoint.every", "deepspeed.stage", "evaluate.batch_size"),
    *("data.workers", "data.train", "train.epochs", "train.max_steps", "train.micro_batch_size"),
    *("train.log_every", "train.compile", "train.cuda_graph", "train.activation_checkpointing"),
]


def saved(folder: Path, step: int, config: RunConfig, **facts: Any) -> Path:
    """A checkpoint of a run on the pairs `pairs`."""
    state = {"config": to_dict(config), "data_fingerprint": "pairs", **facts}
    return checkpoint.write(folder / "checkpoints", step, {}, state)


def damage(path: Path) -> None:
    (path / "state.json").write_text("{}")


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(output_dir=str(tmp_path / "run"))


def test_the_newest_whole_one_is_gone_on_from(tmp_path: Path, config: RunConfig) -> None:
    assert find_checkpoint(config, "pairs") is None
    paths = [saved(tmp_path / "run", step, config) for step in (2, 4)]
    found = find_checkpoint(config, "pairs")
    assert (found.path, found.step) == (paths[1], 4)
    damage(paths[1])
    assert find_checkpoint(config, "pairs").step == 2
    # A run is not begun anew over what may be brought back.
    damage(paths[0])
    with pytest.raises(CheckpointError, match="no checkpoint is whole"):
        find_checkpoint(config, "pairs")


def test_a_folder_that_holds_a_run_is_not_begun_anew(tmp_path: Path, config: RunConfig) -> None:
    anew = replace(config, resume="none")
    assert find_checkpoint(anew, "pairs") is None
    path = saved(tmp_path / "run", 2, config)
    with pytest.raises(ConfigError, match="holds a run already"):
        find_checkpoint(anew, "pairs")
    path.parent.rename(tmp_path / "away")
    assert find_checkpoint(anew, "pairs") is None
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ConfigError, match="holds a run already"):
        find_checkpoint(anew, "pairs")


def test_a_named_one_is_looked_at_like_any_other(tmp_path: Path, config: RunConfig) -> None:
    path = saved(tmp_path / "other", 3, config)
    named = replace(config, resume=str(path))
    assert find_checkpoint(named, "pairs").step == 3
    saved(tmp_path / "run", 3, config)
    assert find_checkpoint(named, "pairs").path == path
    with pytest.raises(CheckpointError, match="was made on other data"):
        find_checkpoint(named, "others")
    other = replace(named, seed=1)
    with pytest.raises(CheckpointError, match="seed 0 -> 1"):
        find_checkpoint(other, "pairs")
    saved(tmp_path / "run", 4, config)
    with pytest.raises(ConfigError, match=r"holds later checkpoints than .*step_00000004"):
        find_checkpoint(named, "pairs")
    damage(path)
    with pytest.raises(CheckpointError, match=r"state\.json is damaged"):
        find_checkpoint(named, "pairs")


@pytest.mark.parametrize("key", ARITHMETIC)
def test_no_setting_of_the_arithmetic_may_change(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"other settings \\({key} 'another' -> "):
        refuse_drift(with_another(key), RunConfig(), "step_7")


@pytest.mark.parametrize("key", FREE)
def test_settings_that_change_no_number_may(key: str) -> None:
    refuse_drift(with_another(key), RunConfig(), "step_7")


def with_another(key: str) -> dict[str, Any]:
    """Default settings of which one was another."""
    tree = to_dict(RunConfig())
    *sections, name = key.split(".")
    inside = tree
    for section in sections:
        inside = inside[section]
    assert name in inside
    inside[name] = "another"
    return tree
