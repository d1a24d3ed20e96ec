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
    stage = config.deepspeed.stage
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.train.clip_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
        "steps_per_print": 1 << 40,
        # It would wait for the GPU in every step.
        "timers": {"throughput": {"enabled": False}},
    }
    if config.deepspeed.config is not None:
        extra = _extra(Path(config.deepspeed.config), settings)
        settings["zero_optimization"] |= extra.pop("zero_optimization", {})
        settings |= extra
    # DeepSpeed would refuse to offload the state of any optimizer but its own: this is ours.
    settings["zero_force_ds_cpu_optimizer"] = False
    guarded = guards_itself(settings)
    if guarded:
        settings["gradient_clipping"] = 0.0
    if stage in (1, 2):
        settings["zero_optimization"]["compute_grad_norm"] = not guarded
    return settings


def guards_itself(settings: dict[str, Any]) -> bool:
    """Whether the optimizer clips and refuses steps itself; otherwise DeepSpeed does both.

    DeepSpeed must where only it knows the gradients of a rank's part: under ZeRO 3, and where the
    optimizer's state lies beside a GPU.
    """
    zero = settings["zero_optimization"]
    offloads = zero.get("offload_optimizer") or zero.get("cpu_offload")
    return zero["stage"] == 0 or (zero["stage"] < 3 and not offloads)


def _extra(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    try:
        extra = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"deepspeed.config {path}: not readable as JSON: {error}") from None
    if not isinstance(extra, dict) or not isinstance(extra.get("zero_optimization", {}), dict):
        raise ConfigError(f"deepspeed.config {path}: expected an object of settings")
    ours = {*settings, "train_batch_size", "optimizer", "scheduler", "fp16", "bf16", "amp"}
    for key in sorted((ours - {"zero_optimization"}) & set(extra)):
        raise ConfigError(f"deepspeed.config {path}: {key!r} is set by the run; take it out")
    if "stage" in extra.get("zero_optimization", {}):
        raise ConfigError(f"deepspeed.config {path}: the stage is set by deepspeed.stage")
    return extra
