"""Two linear maps with a GELU between them; what the GELU gives need not be kept."""

from typing import Any

import torch
import torch.nn.functional as F

from kernels.add_norm.narrow import rounded
from kernels.add_norm.origin import Origin, keeping, origin_of
from kernels.backend import choose, fusing_problem
from kernels.columns import ask
from kernels.copies import in_dtype, multiplied
from kernels.linear.op import by_weight, column_sum
from kernels.linear_rows.op import few_rows_problem, linear_rows
from kernels.mlp.reference import mlp_reference


class _Mlp(torch.autograd.Function):
    """Keeps the input, or its origin, the first product, and what the GELU gives of it unless that
    is made again: elementwise work beside four products."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_in: torch.Tensor,
        bias_in: torch.Tensor,
        weight_out: torch.Tensor,
        bias_out: torch.Tensor,
        origin: Origin | None,
        fused: bool,
        keeps: bool,
    ) -> torch.Tensor:
        # They come as they are trained, and so do their gradients.
        ctx.dtypes = weight_in.dtype, bias_in.dtype, weight_out.dtype, bias_out.dtype
        weight_in, weight_out, bias_out = (
            in_dtype(tensor, x.dtype) for tensor in (weight_in, weight_out, bias_out)
        )
        if fused:
            from kernels.bias_gelu import triton_kernels

            product = F.linear(x, weight_in)
            active = triton_kernels.forward(product, bias_in)
        else:
            product = F.linear(x, weight_in, in_dtype(bias_in, x.dtype))
            active = F.gelu(product)
        kept, ctx.again = keeping(x, origin)
        ctx.save_for_backward(
            product, active if keeps else None, weight_in, bias_in, weight_out, *kept
        )
        ctx.fused = fused
        return F.linear(active, weight_out, bias_out)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        product, active, weight_in, bias_in, weight_out, *kept = ctx.saved_tensors
        wanted, shape = ctx.needs_input_grad, (*upstream.shape[:-1], weight_in.shape[1])
        by_bias_out = column_sum(upstream, ctx.fused, ctx.dtypes[3]) if wanted[4] else None
        product, upstream = product.flatten(0, -2), upstream.flatten(0, -2)
        by_active = upstream @ weight_out
        if ctx.fused:
            from kernels.bias_gelu import triton_kernels

            by_product, by_bias_in, made = triton_kernels.backward(
                by_active, product, bias_in, with_active=active is None
            )
            active = made if active is None else active.flatten(0, -2)
        else:
            active = F.gelu(product) if active is None else active.flatten(0, -2)
        by_weight_out = by_weight(upstream, active, ctx.dtypes[2]) if wanted[3] else None
        del active
        if not ctx.fused:
            # In place: the gradient of what the GELU gave is read here for the last time.
            by_product = torch.ops.aten.gelu_backward.grad_input(
                by_active, product, grad_input=by_active
            )
            by_bias_in = by_product.sum(0).to(ctx.dtypes[1]) if wanted[2] else None
        x = ctx.again(*kept).flatten(0, -2) if wanted[1] else None
        return (
            (by_product @ weight_in).view(shape) if wanted[0] else None,
            by_weight(by_product, x, ctx.dtypes[0]) if wanted[1] else None,
            by_bias_in,
            by_weight_out,
            by_bias_out,
            None,
            None,
            None,
        )


def mlp(
    x: torch.Tensor,
    weight_in: torch.Tensor,
    bias_in: torch.Tensor,
    weight_out: torch.Tensor,
    bias_out: torch.Tensor,
    *,
    keeps: bool = False,
    backend: str = "auto",
) -> torch.Tensor:
    """gelu(x W1^T + b1) W2^T + b2 with the exact GELU.

    Args:
        x: [..., I]. The norm of `add_norm` is not kept for the backward pass but made again.
        weight_in: [H, I].
        bias_in: [H].
        weight_out: [O, H].
        bias_out: [O].
        keeps: keep the GELU's H values a row, which the backward pass otherwise makes again.
        backend: `rows` (GPU, for inference: the first map and GELU in one launch, see
            `linear_rows`), `triton` (GPU: bias and GELU in one pass), `torch` (the same in
            PyTorch's own operations), `reference` (the definition, whose activations autograd
            keeps) or `auto`.

    Returns:
        [..., O], in autocast's dtype where it is on.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    hidden = weight_in.shape[:1]
    fitting = weight_in.ndim == weight_out.ndim == 2 and x.ndim > 1
    fitting = fitting and x.shape[-1:] == weight_in.shape[1:] and bias_in.shape == hidden
    if not fitting or weight_out.shape[1:] != hidden or bias_out.shape != weight_out.shape[:1]:
        shapes = ", ".join(str(tuple(t.shape)) for t in (x, weight_in, bias_in, weight_out))
        raise ValueError(
            f"mlp: x, weights and biases are {shapes} and {tuple(bias_out.shape)}, must be "
            "[..., I], [H, I], [H], [O, H] and [O]"
        )
    problem = fusing_problem(x, backend)
    # The compiler decides itself what is computed again.
    own = "torch.compile decides what is kept" if torch.compiler.is_compiling() else None
    tensors = (x, weight_in, bias_in, weight_out, bias_out)
    maps = ((weight_in, bias_in), (weight_out, bias_out))
    few = few_rows_problem(x, maps, "triton" if backend == "rows" else backend)
    problems = {"rows": few, "triton": problem, "torch": own, "reference": None}
    chosen = choose("mlp", backend, problems, x)
    if chosen == "rows":
        (active,) = linear_rows(x, maps[0], gelu=True, backend="triton")
        return F.linear(active, *maps[1])
    if chosen == "reference":
        return mlp_reference(x, *multiplied(*tensors[1:]))
    device, origin = x.device.type, origin_of(x)
    if torch.is_autocast_enabled(device):
        # Here, where autograd sees it: the backward pass runs without autocast.
        x = rounded(x, torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        out = _Mlp.apply(x, *tensors[1:], origin, chosen == "triton", keeps)
    if chosen == "triton" and bias_out.requires_grad:
        ask(out)
    return out
