"""Linear map and exact GELU, bias and GELU in one pass over the product."""

from typing import Any

import torch

from kernels.backend import choose, fusing_problem
from kernels.bias_gelu.reference import linear_gelu_reference
from kernels.copies import multiplied
from kernels.linear.op import kept_linear


class _BiasGelu(torch.autograd.Function):
    """Keeps the product without its bias; the backward pass computes erf and exp again."""

    @staticmethod
    def forward(ctx: Any, product: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        from kernels.bias_gelu import triton_kernels

        ctx.save_for_backward(product, bias)
        return triton_kernels.forward(product, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        from kernels.bias_gelu import triton_kernels

        return triton_kernels.backward(upstream, *ctx.saved_tensors)[:2]


def linear_gelu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, backend: str = "auto"
) -> torch.Tensor:
    """gelu(x W^T + b), the exact GELU.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O].
        backend: `triton` (GPU), `reference` or `auto`.

    Returns:
        [..., O], in autocast's dtype where it is on.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:] or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear_gelu: x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias "
            f"{tuple(bias.shape)} must be [..., I], [O, I] and [O]"
        )
    problem = fusing_problem(x, backend)
    chosen = choose("linear_gelu", backend, {"triton": problem, "reference": None}, x)
    if chosen == "reference":
        return linear_gelu_reference(x, *multiplied(weight, bias))
    return _BiasGelu.apply(kept_linear(x, weight, None), bias)
