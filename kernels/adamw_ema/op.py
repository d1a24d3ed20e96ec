"""AdamW, the momentum weights that follow it and copies of both, in one pass over memory."""

from collections.abc import Sequence

import torch

from kernels.adamw_ema.reference import adamw_ema_reference
from kernels.backend import choose, triton_problem


@torch.no_grad()
def adamw_ema_(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first_moments: list[torch.Tensor],
    second_moments: list[torch.Tensor],
    update: torch.Tensor,
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    scale: torch.Tensor | float = 1.0,
    followers: Sequence[torch.Tensor | None] | None = None,
    momentum: float = 1.0,
    copies: Sequence[torch.Tensor | None] | None = None,
    follower_copies: Sequence[torch.Tensor | None] | None = None,
    taken: torch.Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Update weights and moments in place, and let followers and copies follow.

    Whether a step is taken at all the caller decides: nothing is checked for being finite.
    PyTorch counts what is changed, whichever way is taken (`_version`).

    Args:
        weights: float32, each dense and without gaps.
        gradients: float32 of the same shapes; read only.
        first_moments: `exp_avg` of the weights.
        second_moments: `exp_avg_sq` of the weights.
        update: 0-dim, number of this update, from 1; on the weights' device, it is not waited for.
        learning_rate: of this update.
        betas: decay of the moments.
        eps: added to the root of the second moment.
        weight_decay: times the learning rate, taken off every weight.
        scale: the gradients are multiplied by it while they are read (clipping).
        followers: momentum weights, float32: m * follower + (1 - m) * new weight; None for a
            weight without one, or for none at all.
        momentum: m of the followers.
        copies: the new weights in another dtype (bfloat16), None as above.
        follower_copies: the new followers in the copies' dtype, None as above.
        taken: 0-dim bool on the weights' device, not waited for; where it is False nothing
            changes. None takes the step.
        backend: `triton` (GPU), `reference` or `auto`.

    Raises:
        ValueError: lists that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    nothing = [None] * len(weights)
    followers = nothing if followers is None else list(followers)
    copies = nothing if copies is None else list(copies)
    behind = nothing if follower_copies is None else list(follower_copies)
    lists = [weights, gradients, first_moments, second_moments, followers, copies, behind]
    _check(lists)
    if not weights:
        return
    problem = (
        triton_problem(weights[0], products=False)
        if weights[0].is_cuda or backend == "triton"
        else "CPU"
    )
    chosen = choose("adamw_ema_", backend, {"triton": problem, "reference": None}, weights[0])
    update = update.double()
    factors = [
        scale.double() if isinstance(scale, torch.Tensor) else torch.full_like(update, scale),
        torch.full_like(update, learning_rate * weight_decay),
        learning_rate / (1 - betas[0] ** update),
        (1 - betas[1] ** update).sqrt(),
        torch.ones_like(update) if taken is None else taken.double(),
    ]
    settings = (torch.stack(factors).to(weights[0].dtype), betas, eps, momentum)
    if chosen == "reference":
        adamw_ema_reference(*lists, *settings)
    else:
        from kernels.adamw_ema import triton_kernels

        triton_kernels.update_(*lists, *settings)
        written = (weights, first_moments, second_moments, followers, copies, behind)
        torch.autograd.graph.increment_version(
            [tensor for part in written for tensor in part if tensor is not None]
        )


def _check(lists: list[list[torch.Tensor | None]]) -> None:
    if len({len(part) for part in lists}) > 1:
        raise ValueError(f"adamw_ema_: lists of {', '.join(str(len(part)) for part in lists)}")
    # Each step asks this of thousands of tensors: what is wrong is worded where something is.
    for group in zip(*lists, strict=True):
        present = [tensor for tensor in group if tensor is not None]
        shape, device = group[0].shape, group[0].device
        for tensor in present:
            if tensor.shape != shape:
                shapes = sorted({tuple(t.shape) for t in present})
                raise ValueError(f"adamw_ema_: tensors of shapes {shapes} belong together")
            if tensor.device != device:
                places = sorted({str(t.device) for t in present})
                raise ValueError(f"adamw_ema_: tensors on different devices: {places}")
            # The gradient, the second, is only read.
            if tensor is not group[1] and not tensor.is_contiguous():
                raise ValueError("adamw_ema_: what is updated must lie without gaps")
        if group[4] is None and group[6] is not None:
            raise ValueError("adamw_ema_: a copy of no follower")
