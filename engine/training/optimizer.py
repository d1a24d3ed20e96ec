"""AdamW that does not take a step whose gradient is not finite."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from engine.config import TrainSection
from kernels import adamw_ema_, ema_


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips by global norm and leaves everything as it was when that is not finite.

    ZeRO 1 to 3 guard the step themselves; without ZeRO the gradients are whole on every rank,
    reduced already, so all ranks decide alike. `overflow` tells DeepSpeed of a step not taken.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], clip_norm: float, **settings: Any):
        super().__init__(parameters, **settings)
        self.clip_norm = clip_norm
        self.overflow = False
        self.followers: dict[nn.Parameter, torch.Tensor] = {}
        self.momentum = 1.0
        self.even = True

    def follow(self, followers: dict[nn.Parameter, torch.Tensor], momentum: float) -> None:
        """Have momentum weights follow inside `step`, in the pass that updates the weights.

        Args:
            followers: by the parameter that each follows.
            momentum: m of m * follower + (1 - m) * parameter.
        """
        self.followers, self.momentum = followers, momentum
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("step", parameter.new_zeros((), dtype=torch.float32))
                for moment in ("exp_avg", "exp_avg_sq"):
                    if moment not in state:
                        state[moment] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Clip and step, or set `overflow`."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.overflow = not bool(torch.isfinite(norm))
        if self.overflow:
            return
        scale = 1.0
        if self.clip_norm > 0:
            scale = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        # A parameter that was passed over once counts its updates differently from then on.
        self.even = self.even and len(gradients) == len(parameters)
        if self.followers and self.even:
            self._step_in_one_pass(scale)
            return
        if self.clip_norm > 0:
            torch._foreach_mul_(gradients, scale)
        super().step(closure)
        ema_(list(self.followers.values()), [p.detach() for p in self.followers], self.momentum)

    def _step_in_one_pass(self, scale: torch.Tensor | float) -> None:
        for group in self.param_groups:
            parameters = group["params"]
            states = [self.state[parameter] for parameter in parameters]
            torch._foreach_add_([state["step"] for state in states], 1)
            adamw_ema_(
                [parameter.detach() for parameter in parameters],
                [parameter.grad for parameter in parameters],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                states[0]["step"],
                learning_rate=group["lr"],
                betas=group["betas"],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                scale=scale,
                followers=[self.followers.get(parameter) for parameter in parameters],
                momentum=self.momentum,
            )


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
