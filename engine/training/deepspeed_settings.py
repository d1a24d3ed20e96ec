"""DeepSpeed's settings of a run; reading them takes no DeepSpeed."""

import json
from pathlib import Path
from typing import Any

from engine.config import ConfigError, RunConfig


def deepspeed_config(config: RunConfig, micro_batch: int, accumulation: int) -> dict[str, Any]:
    """DeepSpeed's settings: what the run says, and what the user's JSON adds to it.

    Raises:
        ConfigError: the JSON cannot be read or sets what the run sets.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.train.clip_norm if config.deepspeed.stage else 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": config.deepspeed.stage},
        "steps_per_print": 1 << 40,
    }
    if config.deepspeed.config is None:
        return settings
    path = Path(config.deepspeed.config)
    try:
        extra = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"deepspeed.config {path}: not readable as JSON: {error}") from None
    if not isinstance(extra, dict) or not isinstance(extra.get("zero_optimization", {}), dict):
        raise ConfigError(f"deepspeed.config {path}: expected an object of settings")
    ours = {*settings, "train_batch_size", "optimizer", "scheduler", "fp16", "bf16", "amp"}
    for key in sorted((ours - {"zero_optimization"}) & set(extra)):
        raise ConfigError(f"deepspeed.config {path}: {key!r} is set by the run; take it out")
    zero = extra.pop("zero_optimization", {})
    if "stage" in zero:
        raise ConfigError(f"deepspeed.config {path}: the stage is set by deepspeed.stage")
    settings["zero_optimization"] |= zero
    return settings | extra
