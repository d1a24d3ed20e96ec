"""A linear map whose bias gets its gradient in one pass."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from kernels.add_norm.narrow import rounded
from kernels.add_norm.origin import Origin, keeping, origin_of
from kernels.adjacent import side_by_side
from kernels.backend import choose, fusing_problem
from kernels.columns import ask, brought
from kernels.copies import in_dtype, multiplied
from kernels.linear.reference import linear_reference


class _Linear(torch.autograd.Function):
    """As PyTorch's own, but for the sum over rows, for which its reduction takes thrice as long."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        origin: Origin | None,
        fused: bool,
    ) -> torch.Tensor:
        # They come as they are trained, and so do their gradients.
        ctx.shape, ctx.dtypes = weight.shape, (weight.dtype, None if bias is None else bias.dtype)
        ctx.fused = fused
        weight = in_dtype(weight, x.dtype).flatten(1)
        kept, ctx.again = keeping(x, origin)
        ctx.save_for_backward(weight, *kept)
        return F.linear(x, weight, None if bias is None else in_dtype(bias, x.dtype))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, *kept = ctx.saved_tensors
        wanted, shape = ctx.needs_input_grad, (*upstream.shape[:-1], weight.shape[1])
        by_bias = column_sum(upstream, ctx.fused, ctx.dtypes[1]) if wanted[2] else None
        upstream = upstream.flatten(0, -2)
        rows = ctx.again(*kept).flatten(0, -2) if wanted[1] else None
        return (
            (upstream @ weight).view(shape) if wanted[0] else None,
            by_weight(upstream, rows, ctx.dtypes[0]).view(ctx.shape) if wanted[1] else None,
            by_bias,
            None,
            None,
        )


class _Linears(torch.autograd.Function):
    """Several maps of one input as one product of their weights below each other.

    In turn with others that read the input it gives the input too, and gets back what those after
    it add to its gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, origin: Origin | None, in_turn: bool, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        weights, biases = tensors[::2], tensors[1::2]
        ctx.sizes, ctx.dtypes = [len(w) for w in weights], (weights[0].dtype, biases[0].dtype)
        ctx.shape, ctx.in_turn, ctx.source = x.shape, in_turn, x.grad_fn
        # Nobody reads what the last in turn passes on.
        ctx.set_materialize_grads(not in_turn)
        weights = [in_dtype(weight, x.dtype) for weight in weights]
        kept, ctx.again = keeping(x, origin)
        ctx.save_for_backward(*weights, *kept)
        bias = side_by_side([in_dtype(bias, x.dtype) for bias in biases], 0)
        products = F.linear(x, side_by_side(weights, 0), bias).split(ctx.sizes, -1)
        return (*products, x) if in_turn else products

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstreams: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        count, total, last = len(ctx.sizes), None, len(ctx.shape) - 1
        # Once: layers that run again hand them out once.
        saved = ctx.saved_tensors
        weights, kept = saved[:count], saved[count:]
        if ctx.in_turn:
            *upstreams, total = upstreams
            shapes = ((*ctx.shape[:-1], size) for size in ctx.sizes)
            pairs = zip(upstreams, shapes, strict=True)
            upstreams = [weights[0].new_zeros(s) if u is None else u for u, s in pairs]
        wanted, upstream = ctx.needs_input_grad, side_by_side(upstreams, last).flatten(0, -2)
        rows = ctx.again(*kept).flatten(0, -2)
        by_weights = by_weight(upstream, rows, ctx.dtypes[0]).split(ctx.sizes)
        by_biases = column_sum(upstream, True, ctx.dtypes[1]).split(ctx.sizes)
        pairs = zip(by_weights, by_biases, strict=True)
        by_x = None
        if wanted[0]:
            by_x = _onto(total, ctx, upstream, side_by_side(weights, 0)).view(ctx.shape)
            by_x.only_for = ctx.source
        return (
            by_x,
            None,
            None,
            *(gradient for pair in pairs for gradient in pair),
        )


def _onto(
    total: torch.Tensor | None, ctx: Any, upstream: torch.Tensor, weight: torch.Tensor
) -> torch.Tensor:
    """total + upstream weight, [M, I], added up in the product and rounded once. A total that the
    one after made for this backward pass alone is written over."""
    if total is None:
        return upstream @ weight
    rows = total.reshape(-1, weight.shape[1])
    if getattr(total, "only_for", None) is ctx:
        return rows.addmm_(upstream, weight)
    return torch.addmm(rows, upstream, weight)


def by_weight(upstream: torch.Tensor, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """upstream^T rows, [O, I], in the dtype of the weight: a GPU's products add up in float32 and
    need not round for it."""
    if upstream.is_cuda and dtype == torch.float32 != upstream.dtype:
        return torch.mm(upstream.T, rows, out_dtype=dtype)
    return (upstream.T @ rows).to(dtype)


def column_sum(upstream: torch.Tensor, fused: bool, dtype: torch.dtype) -> torch.Tensor:
    """Of [..., O] over rows, in the dtype of the bias; as it was brought along, if it was."""
    columns = brought(upstream)
    if columns is not None:
        return columns.to(dtype)
    upstream = upstream.flatten(0, -2)
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
        weight: [O, I], or of more dimensions, a convolution's, read as [O, I].
        bias: [O].
        backend: `triton` (GPU: the bias's gradient by a kernel), `reference` or `auto`.

    Returns:
        [..., O], in autocast's dtype where it is on.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    _check(x, weight, bias)
    problems = {"triton": fusing_problem(x, backend), "reference": None}
    chosen, origin = choose("linear", backend, problems, x), origin_of(x, read_once=True)
    if chosen == "reference" and origin is None:
        weight, bias = multiplied(weight, bias)
        return linear_reference(x, weight.flatten(1), bias)
    return kept_linear(x, weight, bias, origin, fused=chosen == "triton")


def kept_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    origin: Origin | None = None,
    *,
    fused: bool = True,
) -> torch.Tensor:
    """`linear` whose arguments have been looked at; also without a bias."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        # Here, where autograd sees it: the backward pass runs without autocast.
        x = rounded(x, torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        out = _Linear.apply(x, weight, bias, origin, fused)
    if fused and bias is not None and bias.requires_grad:
        ask(out)
    return out


def linear_into(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, out: torch.Tensor
) -> None:
    """`linear` without gradients, written where it is kept: out [..., O], in whose dtype it is."""
    weight, bias = (in_dtype(tensor, out.dtype) for tensor in (weight, bias))
    with torch.autocast(x.device.type, enabled=False):
        rows = x.to(out.dtype).flatten(0, -2)
        torch.addmm(bias, rows, weight.t(), out=out.view(len(rows), -1))


def linears(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    *,
    backend: str = "auto",
) -> tuple[torch.Tensor, ...]:
    """`linear` by each of several weights of one dtype: one product, where that is faster.

    Args:
        x: [..., I]. The norm of `add_norm` is not kept for the backward pass but made again.
        weights: each [O, I].
        biases: each [O] of its weight.
        backend: `triton` (GPU), `reference` (one after the other) or `auto`.

    Returns:
        Each [..., O]; columns of one tensor.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    return _linears(x, weights, biases, backend, origin_of(x), in_turn=False)


def linears_in_turn(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    *,
    backend: str = "auto",
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """`linears` of an input that more products read than these, one after the other.

    Where it is one product, the next reads the input that comes back: on the way back its gradient
    of the input comes here, and this product adds its own to it. Otherwise autograd would keep and
    add up the gradients of all. A hook on what comes back must copy the gradient that it is given,
    which is written over.

    Args:
        x: [..., I], read by this product and by those that read what comes back, or by others too.
        weights: each [O, I].
        biases: each [O] of its weight.
        backend: as in `linears`.

    Returns:
        Each [..., O], and x.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    # What it is made of does not count: it is kept once for all.
    in_turn = torch.is_grad_enabled() and x.requires_grad
    found = _linears(x, weights, biases, backend, None, in_turn=in_turn)
    return (found[: len(weights)], found[-1] if len(found) > len(weights) else x)


def _linears(
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    backend: str,
    origin: Origin | None,
    *,
    in_turn: bool,
) -> tuple[torch.Tensor, ...]:
    """What each map gives, and x behind them if it is one product and in turn with others."""
    problems = {"triton": fusing_problem(x, backend), "reference": None}
    pairs = list(zip(weights, biases, strict=True))
    for pair in pairs:
        _check(x, *pair)
    if choose("linears", backend, problems, x) == "reference":
        return tuple(linear(x, *pair, backend="reference") for pair in pairs)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = rounded(x, torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        found = _Linears.apply(x, origin, in_turn, *(tensor for pair in pairs for tensor in pair))
    if any(bias.requires_grad for bias in biases):
        ask(found[0])
    return found


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> None:
    fitting = weight.ndim > 1 and x.ndim > 1 and x.shape[-1] == weight.shape[1:].numel()
    if not fitting or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear: x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias "
            f"{tuple(bias.shape)} must be [..., I], [O, I] and [O]"
        )
