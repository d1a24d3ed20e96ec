"""Norms of several kinds of rows, each with weights of its own, that lie in one tensor.

The kernels of each kind write its rows there, forward and back: who reads all finds them joined.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from kernels.add_norm.narrow import joined, put_beside
from kernels.add_norm.op import add_norm, check, choose_for_norm
from kernels.add_norm.origin import Origin, tell
from kernels.columns import asked, bring
from kernels.seeds import new_seed

# Tensors that the norm of a kind is made of, in the order of `by_triton`: weight, bias, mean and
# 1 / deviation of each row, the sum.
PARTS = 5


class _AddNorms(torch.autograd.Function):
    """As that of `add_norm`, kind after kind; gives sum and statistics beside the norm."""

    @staticmethod
    def forward(
        ctx: Any,
        residual: torch.Tensor,
        eps: float,
        narrow_dtype: torch.dtype | None,
        with_columns: Sequence[bool],
        dropout: float,
        *kinds: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        from kernels.add_norm import triton_kernels

        branches, weights, biases = kinds[::3], kinds[1::3], kinds[2::3]
        ctx.set_materialize_grads(False)
        ctx.sizes, ctx.with_columns = [len(branch) for branch in branches], with_columns
        ctx.settings = {"dtypes": (residual.dtype, branches[0].dtype), "dropout": dropout}
        dtype = torch.promote_types(*ctx.settings["dtypes"])
        total, normed = (torch.empty_like(residual, dtype=dtype) for _ in range(2))
        narrow = None if narrow_dtype is None else torch.empty_like(total, dtype=narrow_dtype)
        seeds = [new_seed(residual.device) if dropout else None for _ in branches]
        statistics = []
        rows = _rows(ctx.sizes, residual, total, normed, narrow)
        for kind in zip(rows, branches, weights, biases, seeds, strict=True):
            (own, *into), *tensors, seed = kind
            settings = (eps, None, narrow_dtype, seed, dropout, into)
            *_, mean, scale = triton_kernels.forward(own, *tensors, *settings)
            statistics += mean, scale
        ctx.save_for_backward(*weights, *biases, *statistics[::2], *statistics[1::2], *seeds, total)
        ctx.mark_non_differentiable(total, *statistics)
        return normed, narrow, total, *statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, by_normed: torch.Tensor | None, by_narrow: torch.Tensor | None, *_: None
    ) -> tuple[torch.Tensor | None, ...]:
        from kernels.add_norm import triton_backward

        *kept, total = ctx.saved_tensors
        count, gradients = len(ctx.sizes), []
        upstream = (by_narrow, None) if by_normed is None else (by_normed, by_narrow)
        if upstream[0] is None:
            return (None,) * (5 + 3 * count)
        by_residual = torch.empty_like(total, dtype=ctx.settings["dtypes"][0])
        rows = _rows(ctx.sizes, *upstream, total, by_residual)
        for number, (*upstream, own, into) in enumerate(rows):
            *made_of, seed = kept[number::count]
            settings = ctx.settings | {"seed": seed, "with_columns": ctx.with_columns[number]}
            _, by_branch, by_weight, by_bias, columns = triton_backward.backward(
                None, *upstream, *made_of, own, **settings, into=into
            )
            if columns is not None:
                bring(by_branch, columns)
            gradients += by_branch, by_weight, by_bias
        return by_residual, None, None, None, None, *gradients


def add_norms(
    residual: torch.Tensor,
    branches: Sequence[torch.Tensor],
    weights: Sequence[torch.Tensor],
    biases: Sequence[torch.Tensor],
    eps: float,
    *,
    narrow_dtype: torch.dtype | None = None,
    keeps: bool = False,
    dropout: float = 0.0,
    backend: str = "auto",
) -> torch.Tensor:
    """The norms that `add_norm` gives of the rows of each kind, one after the other in one tensor.

    Args:
        residual: [T, D].
        branches: one a kind, of one dtype: [rows, D] each, T rows in all.
        weights: [D] each.
        biases: [D] each.
        eps: added to the variance.
        narrow_dtype: that the kernels write the norms in too, for `rounded` to find.
        keeps: keep the norms whoever reads them. Otherwise a single product does, and makes them
            again.
        dropout: as in `add_norm`.
        backend: as in `add_norm`.

    Returns:
        [T, D], in the wider dtype of residual and branches.

    Raises:
        ValueError: shapes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    sizes = [len(branch) for branch in branches]
    if sum(sizes) != len(residual):
        raise ValueError(f"add_norms: {len(residual)} rows of residuals, of branches {sizes}")
    kinds = list(zip(branches, weights, biases, strict=True))
    added = list(zip(residual.split(sizes), kinds, strict=True))
    for own, kind in added:
        check(own, *kind, dropout)
    if choose_for_norm(residual, backend) == "reference":
        settings = {"keeps": keeps, "dropout": dropout, "backend": "reference"}
        return joined([add_norm(own, *kind, eps, **settings)[1] for own, kind in added])
    if narrow_dtype == torch.promote_types(residual.dtype, branches[0].dtype):
        narrow_dtype = None
    columns = [asked(branch) for branch in branches]
    tensors = (tensor for kind in kinds for tensor in kind)
    normed, narrow, total, *statistics = _AddNorms.apply(
        residual.contiguous(), eps, narrow_dtype, columns, dropout, *tensors
    )
    if normed.requires_grad and not keeps:
        of_rows = (statistics[::2], statistics[1::2], total.split(sizes))
        made_of = zip(weights, biases, *of_rows, strict=True)
        parts = tuple(tensor.detach() for kind in made_of for tensor in kind)
        origin = Origin(parts, _by_triton, read_once=True, is_joined=True)
        for norm in (normed, narrow):
            if norm is not None:
                tell(norm, origin)
    if narrow is not None:
        put_beside(normed, narrow)
    return normed


def _by_triton(*tensors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As `by_triton`, of several kinds."""
    from kernels.add_norm import triton_kernels

    totals = tensors[PARTS - 1 :: PARTS]
    sizes = [len(total) for total in totals]
    shape = (sum(sizes), totals[0].shape[1])
    normed = torch.empty(shape, dtype=dtype, device=totals[0].device)
    for number, (into,) in enumerate(_rows(sizes, normed)):
        kind = tensors[number * PARTS : (number + 1) * PARTS]
        triton_kernels.again(*kind, dtype=dtype, into=into)
    return normed


def _rows(sizes: Sequence[int], *tensors: torch.Tensor | None) -> Iterator[tuple]:
    """Those of each kind, of every tensor that is there."""
    nothing = [None] * len(sizes)
    return zip(*(nothing if t is None else t.split(sizes) for t in tensors), strict=True)
