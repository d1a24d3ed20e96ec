"""A linear map whose bias gets its gradient in one pass."""

from typing import Any

import torch
import torch.nn.functional as F

from kernels.backend import choose, fusing_problem
from kernels.copies import in_dtype, multiplied
from kernels.linear.reference import linear_reference


class _Linear(torch.autograd.Function):
    """As PyTorch's own, but for the sum over rows, for which its reduction takes thrice as long."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        # They come as they are trained, and so do their gradients.
        ctx.shape, ctx.dtypes = weight.shape, (weight.dtype, None if bias is None else bias.dtype)
        weight = in_dtype(weight, x.dtype).flatten(1)
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, None if bias is None else in_dtype(bias, x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        from kernels.linear import triton_kernels

        x, weight = ctx.saved_tensors
        wanted, shape = ctx.needs_input_grad, x.shape
        rows, upstream = x.flatten(0, -2), upstream.flatten(0, -2)
        return (
            (upstream @ weight).view(shape) if wanted[0] else None,
            by_weight(upstream, rows, ctx.dtypes[0]).view(ctx.shape) if wanted[1] else None,
            triton_kernels.column_sum(upstream).to(ctx.dtypes[1]) if wanted[2] else None,
        )


def by_weight(upstream: torch.Tensor, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """upstream^T rows, [O, I], in the dtype of the weight: a GPU's products add up in float32 and
    need not round for it."""
    if upstream.is_cuda and dtype == torch.float32 != upstream.dtype:
        return torch.mm(upstream.T, rows, out_dtype=dtype)
    return (upstream.T @ rows).to(dtype)


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, backend: str = "auto"
) -> torch.Tensor:
    """x W^T + b.

    Args:
        x: [..., I].
        weight: [O, I], or of more dimensions, a convolution's, read as [O, I].
        bias: [O].
        backend: `triton` (GPU: the bias's gradient by a kernel), `reference` or `auto`.

    Returns:
        [..., O], in autocast's dtype where it is on.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    fitting = weight.ndim > 1 and x.ndim > 1 and x.shape[-1] == weight.shape[1:].numel()
    if not fitting or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear: x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias "
            f"{tuple(bias.shape)} must be [..., I], [O, I] and [O]"
        )
    problems = {"triton": fusing_problem(x, backend), "reference": None}
    if choose("linear", backend, problems, x) == "reference":
        weight, bias = multiplied(weight, bias)
        return linear_reference(x, weight.flatten(1), bias)
    return fused_linear(x, weight, bias)


def fused_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`linear` by the kernel, whose arguments have been looked at; also without a bias."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        # Here, where autograd sees it: the backward pass runs without autocast.
        x = x.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _Linear.apply(x, weight, bias)
