"""Steps of a small network by this rank of a few, under ZeRO: `FOLDER`.

Each way of taking them leaves `WAY_RANK.safetensors`: everything that lasts, after each step.
"""

import json
import sys
from pathlib import Path
from typing import Any

import deepspeed
import torch
from deepspeed.utils import safe_get_full_fp32_param
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine import runtime
from engine.config import DeepSpeedSection, RunConfig, TrainSection
from engine.training.deepspeed_engine import DeepSpeedEngine
from kernels import ema_
from launch.cli import run_main

STEPS, POISONED, RESUMED_AFTER, BATCH, RATE, MOMENTUM = 6, 3, 2, 4, 1e-2, 0.9
FOLLOWED = ("first.weight", "second.weight")
# Stage, type under autocast, and clipping; a norm of 1 clips some steps and some not.
WAYS = {
    "stage1": (1, torch.float32, 0.0),
    "bf16": (1, torch.bfloat16, 0.0),
    "clipped": (1, torch.float32, 1.0),
    "stage2": (2, torch.float32, 0.0),
}
Tensors = dict[str, torch.Tensor]


class Network(nn.Module):
    """An odd number of weights, so that the border between two ranks lies inside of one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.temp = nn.Parameter(torch.tensor(0.07))
        self.first, self.second = nn.Linear(40, 51), nn.Linear(51, 3)

    def forward(self, x: torch.Tensor, poisoned: bool) -> torch.Tensor:
        """[B, 40] -> a loss; a poisoned one is finite, and one gradient of the last rank's not."""
        with torch.autocast("cpu", torch.bfloat16, enabled=x.dtype == torch.bfloat16):
            y = self.second(torch.tanh(self.first(x)))
        loss = (y.float() / self.temp).square().mean()
        last = self.second.bias[-1]
        return loss + (last - last.detach()).sqrt() if poisoned else loss

    @torch.no_grad()
    def clamp_temperature_(self) -> None:
        """To a range that it leaves in the first steps."""
        self.temp.clamp_(0.06, 0.071)


class Plain(DeepSpeedEngine):
    """DeepSpeed's own step: its norm and clipping, and a copy that is updated and written back."""

    def __init__(
        self,
        model: nn.Module,
        config: RunConfig,
        micro_batch: int,
        accumulation: int,
        learning_rate: float,
    ) -> None:
        self.model, self.stage, self.guarded = model, config.deepspeed.stage, False
        self.recorded, self._alone = None, False
        model.temp = nn.Parameter(model.temp.detach().reshape(1))
        rates = {"lr": learning_rate, "weight_decay": config.train.weight_decay}
        settings = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_clipping": config.train.clip_norm,
            "zero_optimization": {"stage": self.stage},
        }
        self.engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=torch.optim.AdamW(model.parameters(), fused=True, **rates),
            config=settings,
            dist_init_required=False,
        )
        self._prepare_moments()


class OnePass(DeepSpeedEngine):
    """As on a GPU."""

    one_pass_on = ("cpu",)


class Moved(TorchDispatchMode):
    """Counts the bytes that operations read and write, but for single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        name, given = function._schema.name, function._schema.arguments
        if function.is_view or function.namespace != "aten" or "empty" in name:
            return result
        onto_itself = name == "aten::copy_" and arguments[0].data_ptr() == arguments[1].data_ptr()
        changed = False
        for argument, value in zip(given, arguments, strict=False):
            # What scales gradients back would write them; nothing does.
            written = argument.alias_info is not None and argument.name != "grads"
            changed |= written
            read = not (written and name in ("aten::copy_", "aten::zero_", "aten::fill_"))
            self.count += (read + written) * _bytes(value) * (not onto_itself)
        self.count += 0 if changed else _bytes(result)
        return result


def _bytes(value: object) -> int:
    tensors = value if isinstance(value, list | tuple) else [value]
    return sum(t.nbytes for t in tensors if isinstance(t, torch.Tensor) and t.ndim)


def batch(step: int, rank: int, dtype: torch.dtype) -> torch.Tensor:
    """[BATCH, 40] of a step and rank, of very different sizes."""
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(BATCH, 40, generator=generator) * (0.01 if step % 2 else 1.0)
    return x.to(dtype)


def take(
    kind: type[DeepSpeedEngine],
    stage: int,
    rank: int,
    dtype: torch.dtype,
    clip_norm: float,
    begin: tuple[int, Tensors, int] | None = None,
) -> tuple[Tensors, float]:
    """All steps, or those after `begin`: what lasts after each, and bytes that the last one moved
    for each weight of this rank's part.

    Args:
        kind: of engine.
        stage: of ZeRO.
        rank: of this process.
        dtype: float32, or bfloat16 for autocast.
        clip_norm: largest norm of a gradient.
        begin: a step, what lasted after it, and updates until then.
    """
    network = Network()
    followers = {n: network.get_parameter(n).detach() * 0.5 for n in FOLLOWED}
    first, was, updates = begin or (-1, {}, 0)
    if begin:
        network.load_state_dict({n: was[f"{first}.{n}"] for n in network.state_dict()})
        followers = {n: was[f"{first}.follower.{n}"].clone() for n in FOLLOWED}
    config = RunConfig(
        train=TrainSection(clip_norm=clip_norm), deepspeed=DeepSpeedSection(stage=stage)
    )
    engine = kind(network, config, BATCH, 1, RATE)
    if begin:
        there = {n: t for n, t in was.items() if n.startswith(f"{first}.exp_avg")}
        engine.set_moments({n.partition(".")[2]: t for n, t in there.items()}, updates)
    last = {}
    for step in range(first + 1, STEPS):
        poisoned = step == POISONED and rank == 1
        engine.backward(engine.forward(batch(step, rank, dtype), poisoned))
        with Moved() as moved:
            engine.step(RATE, last=True)
        accepted = engine.accepted()
        assert accepted == (step != POISONED)
        if accepted:
            engine.clamp_temperature_()
            with engine.whole_parameters(FOLLOWED) as online:
                ema_(list(followers.values()), [online[n] for n in FOLLOWED], MOMENTUM)
        with engine.whole_parameters() as whole:
            now = {name: tensor.clone() for name, tensor in whole.items()}
        now |= {f"follower.{name}": tensor.clone() for name, tensor in followers.items()}
        last |= {f"{step}.{name}": t for name, t in {**now, **engine.moments(True)}.items()}
    for parameter in network.parameters():
        # The parts that DeepSpeed knows are the weights.
        assert torch.equal(safe_get_full_fp32_param(parameter), parameter)
    (part,) = engine.engine.optimizer.partition_size
    engine.close()
    return last, moved.count / part


def main() -> int:
    """Every way, and ours once more from the middle."""
    folder, here = Path(sys.argv[1]), runtime.start("cpu")
    moved = {}
    for name, (stage, dtype, clip_norm) in WAYS.items():
        settings = (stage, here.rank, dtype, clip_norm)
        for kind in (Plain, OnePass, DeepSpeedEngine):
            way = f"{name}_{kind.__name__}"
            found, moved[way] = take(kind, *settings)
            save_file(found, folder / f"{way}_{here.rank}.safetensors")
        middle = (RESUMED_AFTER, found, RESUMED_AFTER + 1)
        resumed, _ = take(DeepSpeedEngine, *settings, middle)
        save_file(resumed, folder / f"{name}_Resumed_{here.rank}.safetensors")
    (folder / f"moved_{here.rank}.json").write_text(json.dumps(moved))
    runtime.stop()
    return 0


if __name__ == "__main__":
    run_main(main)
