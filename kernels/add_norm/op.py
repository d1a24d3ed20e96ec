"""Residual addition and the layer norm that follows, in one pass."""

from functools import partial
from typing import Any

import torch

from kernels.add_norm.narrow import put_beside
from kernels.add_norm.origin import by_torch, by_triton, origin_of, tell, told
from kernels.add_norm.reference import add_norm_reference
from kernels.backend import choose, fusing_problem
from kernels.columns import asked, bring
from kernels.seeds import new_seed

WIDEST = 4096


class _AddNorm(torch.autograd.Function):
    """Keeps the sum or what was added, and gives each row's mean and 1 / deviation beside."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: torch.Tensor,
        branch: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        norm_dtype: torch.dtype | None,
        narrow_dtype: torch.dtype | None,
        residual_is_kept: bool,
        with_columns: bool,
        dropout: float,
    ) -> tuple[torch.Tensor | None, ...]:
        from kernels.add_norm import triton_kernels

        ctx.set_materialize_grads(False)
        seed = new_seed(residual.device) if dropout else None
        total, normed, narrow, *statistics = triton_kernels.forward(
            residual, branch, weight, bias, eps, norm_dtype, narrow_dtype, seed, dropout
        )
        parts = (residual, branch) if residual_is_kept else (total,)
        ctx.save_for_backward(seed, weight, bias, *statistics, *parts)
        ctx.mark_non_differentiable(*statistics)
        ctx.adds = branch is not None
        ctx.settings = {
            "dtypes": (residual.dtype, branch.dtype if ctx.adds else residual.dtype),
            "with_columns": with_columns,
            "dropout": dropout,
        }
        return total, normed, narrow, *statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any,
        by_total: torch.Tensor | None,
        by_normed: torch.Tensor | None,
        by_narrow: torch.Tensor | None,
        *_: None,
    ) -> tuple[torch.Tensor | None, ...]:
        from kernels.add_norm import triton_backward

        seed, *kept = ctx.saved_tensors
        upstream = [gradient for gradient in (by_normed, by_narrow) if gradient is not None]
        nothing = (None,) * 6
        if not upstream and by_total is None:
            return None, None, None, None, *nothing
        if not upstream and seed is None:
            by_parts = [by_total.to(dtype) for dtype in ctx.settings["dtypes"]]
            return by_parts[0], by_parts[1] if ctx.adds else None, None, None, *nothing
        # Of the sum alone, with dropout: the gradient of the norm is zero, the mask's is not.
        first, second = (*upstream, None)[:2] if upstream else (torch.zeros_like(by_total), None)
        *by_parts, by_weight, by_bias, columns = triton_backward.backward(
            by_total, first, second, *kept, seed=seed, **ctx.settings
        )
        if columns is not None:
            bring(by_parts[1], columns)
        if not ctx.adds:
            by_parts[1] = None
        return *by_parts, *((by_weight, by_bias) if upstream else (None, None)), *nothing


def add_norm(
    residual: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    *,
    norm_dtype: torch.dtype | None = None,
    narrow_dtype: torch.dtype | None = None,
    residual_is_kept: bool = False,
    read_once: bool = False,
    keeps: bool = False,
    dropout: float = 0.0,
    backend: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """residual + dropout(branch), and the layer norm of that sum.

    Args:
        residual: [..., D].
        branch: [..., D], the output of a sub-layer. If that ends in a map with a bias, the kernel
            makes the bias's gradient too, which finds its way with the branch's (`columns`). None
            where there is nothing to add: the sum is the residual.
        weight: [D] of the norm.
        bias: [D] of the norm.
        eps: added to the variance.
        norm_dtype: of the norm; None for that of the sum. What only feeds matrix products under
            autocast can be written in their dtype at once.
        narrow_dtype: that the kernel writes the norm in too, for `rounded` to find.
        residual_is_kept: for the backward pass of another operation. The kernel then keeps the
            branch instead of the sum where that is less, and adds them again; never with dropout.
        read_once: a single product reads the norm, which makes it again instead of keeping it.
            An MLP does so in any case.
        keeps: keep the norm and the sum whoever reads them: more memory for less work.
        dropout: probability of dropping a number of the branch, in [0, 1), keyed by the device's
            generator. The kernel draws again on the way back what it drew.
        backend: `triton` (GPU), `reference` or `auto`.

    Returns:
        The sum, in the wider dtype of both, and its norm, which says what it is made of
        (`origin`): [..., D] each.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    added, dropout = (residual, 0.0) if branch is None else (branch, dropout)
    check(residual, added, weight, bias, dropout)
    chosen = choose_for_norm(residual, backend)
    arguments = (residual, branch, weight, bias, eps, norm_dtype)
    if chosen == "reference":
        total, normed = add_norm_reference(*arguments, dropout)
        if not keeps:
            again = partial(by_torch, eps=eps)
            told(normed, again, weight, bias, total, read_once=read_once)
        return total, normed
    if narrow_dtype == (norm_dtype or torch.promote_types(residual.dtype, added.dtype)):
        narrow_dtype = None
    is_less = added.dtype.itemsize < residual.dtype.itemsize and residual.is_contiguous()
    in_parts = residual_is_kept and is_less and not keeps and not dropout
    columns = branch is not None and asked(branch)
    total, normed, narrow, *statistics = _AddNorm.apply(
        *arguments, narrow_dtype, in_parts, columns, dropout
    )
    if not keeps:
        made_of = (weight, bias, *statistics, *((residual, branch) if in_parts else (total,)))
        told(normed, by_triton, *made_of, read_once=read_once)
    if narrow is not None:
        tell(narrow, origin_of(normed))
        put_beside(normed, narrow)
    return total, normed


def choose_for_norm(residual: torch.Tensor, backend: str) -> str:
    """The backend to run."""
    problem, width = fusing_problem(residual, backend), residual.shape[-1]
    if width > WIDEST:
        problem = f"rows of {width} are wider than {WIDEST}"
    return choose("add_norm", backend, {"triton": problem, "reference": None}, residual)


def check(
    residual: torch.Tensor,
    branch: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    dropout: float,
) -> None:
    """Raise ValueError if these do not fit together."""
    shapes = {tuple(residual.shape[-1:]), tuple(weight.shape), tuple(bias.shape)}
    if residual.shape != branch.shape or len(shapes) > 1:
        raise ValueError(
            f"add_norm: residual {tuple(residual.shape)}, branch {tuple(branch.shape)}, weight "
            f"{tuple(weight.shape)} and bias {tuple(bias.shape)} must be [..., D] and [D]"
        )
    if not 0 <= dropout < 1:
        raise ValueError(f"add_norm: dropout {dropout} out of range")
