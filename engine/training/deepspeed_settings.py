"""DeepSpeed's settings of a run; reading them takes no DeepSpeed."""

import difflib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

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


def never_read(config: RunConfig) -> list[str]:
    """Have DeepSpeed read the settings of a run, as it does when one begins. It must be installed.

    Returns:
        What is said of each key of the user's JSON that DeepSpeed knows nothing of.

    Raises:
        ConfigError: it refuses them.
    """
    settings = _Looked(deepspeed_config(config, 1, 1))
    if not torch.cuda.is_available():
        # As a run sets it before it imports DeepSpeed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig(settings)
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        raise refused(config, error) from None
    return [
        _unknown(key, settings.looked_for) for key in settings if key not in settings.looked_for
    ]


def refused(config: RunConfig, error: Exception) -> ConfigError:
    """What DeepSpeed raises over the user's JSON, as an error of the run.

    Args:
        config: of the run.
        error: that DeepSpeed raised.
    """
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from pydantic import ValidationError

    said = str(error)
    if isinstance(error, ValidationError):
        first, fields = error.errors()[0], DeepSpeedZeroConfig.model_fields
        key = ".".join(map(str, first["loc"]))
        said = f"{key}: {first['msg']}"
        if first["type"] == "extra_forbidden":
            said = _unknown(key, [field.alias or name for name, field in fields.items()])
    return ConfigError(f"deepspeed.config {config.deepspeed.config}: DeepSpeed refuses it: {said}")


class _Looked(dict[str, Any]):
    """Settings that remember the keys that were looked for."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.looked_for: set[str] = set()

    def __contains__(self, key: object) -> bool:
        self.looked_for.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Any:
        self.looked_for.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.looked_for.add(key)
        return super().get(key, default)

    def keys(self) -> "_Looked":
        return self


def _unknown(key: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, known, 1, 0.6)
    return f"unknown key {key!r}" + (f": did you mean {close[0]!r}?" if close else "")


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
