"""AdamW that does not take a step whose gradient is not finite."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from engine.config import TrainSection
from kernels import adamw_ema_, ema_
from kernels.copies import Copies

# Weights whose squares are summed in float32; the sums of more are summed again.
PIECE = 1 << 20


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that clips by global norm and leaves everything as it was when that is not finite.

    Gradients are reduced already: whole on every rank, or in parts whose norms are added up, so
    all ranks decide alike. `overflow` tells of a step not taken; in one pass it is decided on the
    device, and only who asks waits.

    Args:
        parameters: that it steps on.
        clip_norm: largest norm of all gradients; 0 takes them as they are.
        in_parts: each rank has a part of the weights, as under ZeRO 1 and 2.
        settings: PyTorch's.

    Attributes:
        one_pass: clip, update and let followers follow in one pass over memory; PyTorch's own
            AdamW otherwise. The state must be there already.
        waits: after a step not taken none is until `release`, so that the host may go ahead.
        told: of the last step, whether it was taken.
        copies: of weights and followers, which the one pass writes too; of what is updated
            otherwise their owner has to `refresh` them.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        clip_norm: float,
        *,
        in_parts: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(parameters, **settings)
        self.clip_norm, self.in_parts = clip_norm, in_parts
        self.one_pass = self.waits = False
        self.told: Told | None = None
        self._held: torch.Tensor | None = None
        self.followers: dict[nn.Parameter, torch.Tensor] = {}
        self.momentum = 1.0
        self.copies = Copies((), torch.bfloat16)
        self.even = True

    def follow(self, followers: dict[nn.Parameter, torch.Tensor], momentum: float) -> None:
        """Have momentum weights follow inside `step`, in the one pass that updates the weights.

        Args:
            followers: by the parameter that each follows.
            momentum: m of m * follower + (1 - m) * parameter.
        """
        self.followers, self.momentum, self.one_pass = followers, momentum, True
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state.setdefault("step", parameter.new_zeros((), dtype=torch.float32))
                for moment in ("exp_avg", "exp_avg_sq"):
                    if moment not in state:
                        state[moment] = torch.zeros_like(parameter)

    @property
    def overflow(self) -> bool:
        """Whether the last step was not taken."""
        return self.told is not None and not self.told.value()

    def release(self) -> None:
        """Take steps again after one that was not taken."""
        if self._held is not None:
            self._held.zero_()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Clip and step, unless the gradient is not finite."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = self._norm(gradients)
        taken, scale = torch.isfinite(norm), 1.0
        if self.clip_norm > 0:
            scale = (self.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        # A parameter that was passed over once counts its updates differently from then on.
        even = self.even and len(gradients) == len(parameters)
        if self.waits:
            if self._held is None:
                self._held = torch.zeros_like(taken)
            taken = taken & ~self._held
            self._held.copy_(~taken)
        self.told = Told(taken)
        if self.one_pass and even:
            # Without waiting to know whether: a GPU would have nothing to do meanwhile.
            self._step_in_one_pass(scale, taken)
            return
        if self.overflow:
            return
        self.even = even
        if self.clip_norm > 0:
            torch._foreach_mul_(gradients, scale)
        super().step(closure)
        # PyTorch's fused AdamW does not count what it changes.
        torch.autograd.graph.increment_version(parameters)
        ema_(list(self.followers.values()), [p.detach() for p in self.followers], self.momentum)

    def _norm(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        if not self.in_parts:
            return torch.nn.utils.get_total_norm(gradients)
        pieces = [piece for gradient in gradients for piece in gradient.split(PIECE)]
        square = torch.nn.utils.get_total_norm(pieces).double().square()
        torch.distributed.all_reduce(square)
        return square.sqrt().float()

    def _step_in_one_pass(self, scale: torch.Tensor | float, taken: torch.Tensor) -> None:
        self.copies.refresh()
        for group in self.param_groups:
            parameters = group["params"]
            states = [self.state[parameter] for parameter in parameters]
            followers = [self.followers.get(parameter) for parameter in parameters]
            # One summand for each: of a single one for all PyTorch asks the device for its value.
            counts = [state["step"] for state in states]
            torch._foreach_add_(counts, [taken.float()] * len(counts))
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
                followers=followers,
                momentum=self.momentum,
                copies=[self.copies.of(parameter) for parameter in parameters],
                follower_copies=[self.copies.of(follower) for follower in followers],
                taken=taken,
            )
            self.copies.written([*parameters, *self.followers.values()])


class Told:
    """A flag on its way to the host, which waits for it and not for what is launched after it."""

    def __init__(self, flag: torch.Tensor) -> None:
        self.flag = self._here = flag
        self._arrived = None
        if flag.is_cuda:
            self._here = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._here.copy_(flag, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    @property
    def coming(self) -> bool:
        """Whether it is still on its way."""
        return self._arrived is not None and not self._arrived.query()

    def value(self) -> bool:
        """Whether it is set."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._here)


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    train: TrainSection,
    learning_rate: float,
    *,
    guarded: bool = True,
    in_parts: bool = False,
) -> torch.optim.AdamW:
    """AdamW with decay on every parameter, as the original.

    Args:
        parameters: that it steps on.
        train: its settings.
        learning_rate: of the first step.
        guarded: it clips and refuses steps itself; otherwise DeepSpeed does.
        in_parts: each rank has a part of the weights.
    """
    settings = {
        "lr": learning_rate,
        "betas": tuple(train.betas),
        "eps": train.eps,
        "weight_decay": train.weight_decay,
        "fused": True,
    }
    if guarded:
        return GuardedAdamW(parameters, train.clip_norm, in_parts=in_parts, **settings)
    return torch.optim.AdamW(parameters, **settings)
