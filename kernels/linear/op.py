"""A linear map whose bias gets its gradient in one pass."""

from typing import Any

import torch
import torch.nn.functional as F

from kernels.add_norm.narrow import rounded
from kernels.add_norm.origin import Origin, keeping, origin_of
from kernels.backend import choose, fusing_problem
from kernels.linear.reference import linear_reference


class _Linear(torch.autograd.Function):
    """As PyTorch's own, but for the sum over rows, for which its reduction takes thrice as long."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        origin: Origin | None,
        fused: bool,
    ) -> torch.Tensor:
        ctx.dtypes, ctx.fused = (weight.dtype, bias.dtype), fused
        weight = weight.to(x.dtype)
        kept, ctx.again = keeping(x, origin)
        ctx.save_for_backward(weight, *kept)
        return F.linear(x, weight, bias.to(x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        wanted, shape = ctx.needs_input_grad, (*upstream.shape[:-1], weight.shape[1])
        upstream = upstream.flatten(0, -2)
        rows = ctx.again(*kept).flatten(0, -2) if wanted[1] else None
        return (
            (upstream @ weight).view(shape) if wanted[0] else None,
            by_weight(upstream, rows, ctx.dtypes[0]) if wanted[1] else None,
            column_sum(upstream, ctx.fused, ctx.dtypes[1]) if wanted[2] else None,
            None,
            None,
        )


def by_weight(upstream: torch.Tensor, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """upstream^T rows, [O, I], in the dtype of the weight: a GPU's products add up in float32 and
    need not round for it."""
    if upstream.is_cuda and dtype == torch.float32 != upstream.dtype:
        return torch.mm(upstream.T, rows, out_dtype=dtype)
    return (upstream.T @ rows).to(dtype)


def column_sum(upstream: torch.Tensor, fused: bool, dtype: torch.dtype) -> torch.Tensor:
    """Of [M, O] over rows, in the dtype of the bias."""
    if not fused:
        return upstream.sum(0).to(dtype)
    from kernels.linear import triton_kernels

    return triton_kernels.column_sum(upstream).to(dtype)


def linear(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, backend: str = "auto"
) -> torch.Tensor:
    """x W^T + b.

    Args:
        x: [..., I]. A norm that `add_norm` gave to be read once is not kept for the backward pass
            but made again.
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
    chosen, origin = choose("linear", backend, problems, x), origin_of(x, read_once=True)
    if chosen == "reference" and origin is None:
        return linear_reference(x, weight, bias)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        # Here, where autograd sees it: the backward pass runs without autocast.
        x = rounded(x, torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        return _Linear.apply(x, weight, bias, origin, chosen == "triton")
