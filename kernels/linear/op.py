"""A linear map whose bias gets its gradient in one pass."""

from typing import Any

import torch
import torch.nn.functional as F

from kernels.backend import choose, fusing_problem
from kernels.linear.reference import linear_reference


class _Linear(torch.autograd.Function):
    """As PyTorch's own, but for the sum over rows, for which its reduction takes thrice as long."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias_dtype = bias.dtype
        return F.linear(x, weight, bias.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from kernels.linear import triton_kernels

        x, weight = ctx.saved_tensors
        wanted, shape = ctx.needs_input_grad, x.shape
        rows, upstream = x.flatten(0, -2), upstream.flatten(0, -2)
        return (
            (upstream @ weight).view(shape) if wanted[0] else None,
            upstream.T @ rows if wanted[1] else None,
            triton_kernels.column_sum(upstream).to(ctx.bias_dtype) if wanted[2] else None,
        )


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, backend: str = "auto"
) -> torch.Tensor:
    """x W^T + b.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O].
        backend: `triton` (GPU: the bias's gradient by a kernel), `reference` or `auto`.

    Returns:
        [..., O], in autocast's dtype where it is on.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    fitting = weight.ndim == 2 and x.ndim > 1 and x.shape[-1:] == weight.shape[1:]
    if not fitting or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear: x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias "
            f"{tuple(bias.shape)} must be [..., I], [O, I] and [O]"
        )
    problems = {"triton": fusing_problem(x, backend), "reference": None}
    if choose("linear", backend, problems, x) == "reference":
        return linear_reference(x, weight, bias)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        # Here, where autograd sees it: the backward pass runs without autocast.
        low = torch.get_autocast_dtype(device)
        x, weight = x.to(low), weight.to(low)
    with torch.autocast(device, enabled=False):
        return _Linear.apply(x, weight, bias)
