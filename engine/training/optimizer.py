"""AdamW that does not take a step whose gradient is not finite."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from engine.config import TrainSection


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips by global norm and leaves everything as it was when that is not finite.

    ZeRO 1 to 3 guard the step themselves; without ZeRO the gradients are whole on every rank,
    reduced already, so all ranks decide alike. `overflow` tells DeepSpeed of a step not taken.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], clip_norm: float, **settings: Any):
        super().__init__(parameters, **settings)
        self.clip_norm = clip_norm
        self.overflow = False

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Clip and step, or set `overflow`."""
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.overflow = not bool(torch.isfinite(norm))
        if self.overflow:
            return
        if self.clip_norm > 0:
            torch._foreach_mul_(gradients, (self.clip_norm / (norm + 1e-6)).clamp(max=1.0))
        super().step(closure)


def build_optimizer(
    parameters: Iterable[nn.Parameter], train: TrainSection, stage: int, learning_rate: float
) -> torch.optim.AdamW:
    """AdamW with decay on every parameter, as the original."""
    settings = {
        "lr": learning_rate,
        "betas": tuple(train.betas),
        "eps": train.eps,
        "weight_decay": train.weight_decay,
        "fused": True,
    }
    if stage == 0:
        return GuardedAdamW(parameters, train.clip_norm, **settings)
    return torch.optim.AdamW(parameters, **settings)
