"""Tiny runs for tests: their configuration files, and what they leave behind."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file


def write_config(folder: Path, name: str, data: Path, **sections: Any) -> Path:
    """A run of the tiny preset on `data`, as YAML; sections override its settings."""
    tree: dict[str, Any] = {
        "output_dir": str(folder / name),
        "precision": "fp32",
        "tensorboard": False,
        "model": {"preset": "tiny", "dropout": 0.0, "queue_size": 24, "alpha_ramp_epochs": 1.0},
        "data": {"train": str(data), "workers": 0},
        "train": {
            "max_steps": 4,
            "global_batch_size": 8,
            "negative_group_size": 4,
            "learning_rate": 1e-3,
            "warmup_steps": 2,
            "clip_norm": 1.0,
            "log_every": 1,
        },
        "checkpoint": {"every": 0, "keep_last": 2},
        "deepspeed": {"stage": 0},
    }
    for section, values in sections.items():
        tree[section] = tree.get(section, {}) | values if isinstance(values, dict) else values
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> dict[int, tuple[float, float, float]]:
    """The three losses of each step."""
    return {m["step"]: (m["loss_itc"], m["loss_itm"], m["loss_lm"]) for m in metrics(run)}


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint."""
    return load_file(run / "checkpoints" / f"step_{step:08d}" / "model.safetensors")
