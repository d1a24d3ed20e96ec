"""Residual and layer norm in Triton: whole rows in registers, statistics in float32."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

# Numbers of a thread, and threads of a program if its rows are no wider.
NUMBERS, THREADS = 16, 128
# The fewest with which Philox passes all tests of BigCrush (Salmon et al. 2011, table 2).
ROUNDS = tl.constexpr(7)


@triton.jit
def stays(seed, m, d, threshold) -> tl.tensor:
    """Which numbers of rows m and columns d dropout keeps, whatever the sizes of the tile.

    Columns share a counter by four, each has a word of it. A thread holds all four and computes
    them once.
    """
    four = m[:, None] * 0 + (d // 4)[None, :]
    zero = four * 0
    words = tl.philox(seed, four, zero + m[:, None], zero, zero, n_rounds=ROUNDS)
    place = (d % 4)[None, :]
    low, high = tl.where(place == 0, words[0], words[1]), tl.where(place == 2, words[2], words[3])
    return (tl.where(place < 2, low, high) >> 1).to(tl.int32) >= threshold


@triton.jit
def add_norm_kernel(
    residual_ptr,
    branch_ptr,
    weight_ptr,
    bias_ptr,
    total_ptr,
    normed_ptr,
    narrow_ptr,
    mean_ptr,
    scale_ptr,
    seed_ptr,
    rows,
    width,
    eps,
    threshold,
    rescale,
    ADDS: tl.constexpr,
    HAS_NARROW: tl.constexpr,
    DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum, norm, in another dtype too if asked, mean and 1 / deviation of a few rows.

    Where nothing is added, the sum is the residual and not written.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    d_mask, m_mask = d < width, m < rows
    mask = m_mask[:, None] & d_mask[None, :]
    places = m.to(tl.int64)[:, None] * width + d[None, :]
    total = tl.load(residual_ptr + places, mask, 0.0).to(tl.float32)
    if ADDS:
        branch = tl.load(branch_ptr + places, mask, 0.0).to(tl.float32)
        if DROPOUT:
            branch = tl.where(stays(tl.load(seed_ptr), m, d, threshold), branch * rescale, 0.0)
        total += branch
        # As it is kept: the backward pass sees no other.
        kept = total.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + places, kept, mask)
        total = kept.to(tl.float32)
    mean = tl.sum(total, 1) / width
    apart = tl.where(mask, total - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(apart * apart, 1) / width + eps)
    weight = tl.load(weight_ptr + d, d_mask, 0.0).to(tl.float32)
    bias = tl.load(bias_ptr + d, d_mask, 0.0).to(tl.float32)
    normed = apart * scale[:, None] * weight[None, :] + bias[None, :]
    tl.store(normed_ptr + places, normed.to(normed_ptr.dtype.element_ty), mask)
    if HAS_NARROW:
        tl.store(narrow_ptr + places, normed.to(narrow_ptr.dtype.element_ty), mask)
    tl.store(mean_ptr + m, mean, m_mask)
    tl.store(scale_ptr + m, scale, m_mask)


@triton.jit
def norm_again_kernel(
    total_ptr,
    branch_ptr,
    weight_ptr,
    bias_ptr,
    mean_ptr,
    scale_ptr,
    normed_ptr,
    rows,
    width,
    HAS_BRANCH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The norm as `add_norm_kernel` wrote it; with a branch, of what that and `total` add up to."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    d_mask, m_mask = d < width, m < rows
    mask = m_mask[:, None] & d_mask[None, :]
    places = m.to(tl.int64)[:, None] * width + d[None, :]
    total = tl.load(total_ptr + places, mask, 0.0).to(tl.float32)
    if HAS_BRANCH:
        total += tl.load(branch_ptr + places, mask, 0.0).to(tl.float32)
        total = total.to(total_ptr.dtype.element_ty).to(tl.float32)
    mean, scale = tl.load(mean_ptr + m, m_mask, 0.0), tl.load(scale_ptr + m, m_mask, 0.0)
    apart = tl.where(mask, total - mean[:, None], 0.0)
    weight = tl.load(weight_ptr + d, d_mask, 0.0).to(tl.float32)
    bias = tl.load(bias_ptr + d, d_mask, 0.0).to(tl.float32)
    normed = apart * scale[:, None] * weight[None, :] + bias[None, :]
    tl.store(normed_ptr + places, normed.to(normed_ptr.dtype.element_ty), mask)


def tiles(width: int, numbers: int = NUMBERS, threads: int = THREADS) -> dict[str, int]:
    """Constants of a launch over rows of this width."""
    block = triton.next_power_of_2(width)
    tile = max(threads * numbers, block)
    return {"BLOCK_M": tile // block, "BLOCK_D": block, "num_warps": tile // numbers // 32}


def drawn(dropout: float) -> dict[str, int | float | bool]:
    """Numbers of a launch: dropped is where 31 random bits are fewer than the threshold."""
    threshold, rescale = int(dropout * 2**31), 1 / (1 - dropout)
    return {"threshold": threshold, "rescale": rescale, "DROPOUT": dropout > 0}


def forward(
    residual: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    norm_dtype: torch.dtype | None,
    narrow_dtype: torch.dtype | None,
    seed: torch.Tensor | None = None,
    dropout: float = 0.0,
    into: Sequence[torch.Tensor | None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Sum, norm and that in another dtype [..., D], mean and 1 / deviation [rows] float32.

    With a seed, int64 of which the first is read, the branch is dropped out before it is added.
    Without a branch the sum is the residual itself. The first three are new tensors, or those that
    are given, contiguous.
    """
    residual = residual.contiguous()
    branch = residual if (alone := branch is None) else branch.contiguous()
    width = residual.shape[-1]
    rows = residual.numel() // width
    if into is None:
        dtype = torch.promote_types(residual.dtype, branch.dtype)
        dtypes = (None if alone else dtype, norm_dtype or dtype, narrow_dtype)
        into = [None if kind is None else torch.empty_like(residual, dtype=kind) for kind in dtypes]
    total, normed, narrow = (residual, *into[1:]) if alone else into
    mean = torch.empty(rows, device=residual.device, dtype=torch.float32)
    scale = torch.empty_like(mean)
    if rows:
        settings = tiles(width)
        add_norm_kernel[(triton.cdiv(rows, settings["BLOCK_M"]),)](
            residual,
            branch,
            weight.contiguous(),
            bias.contiguous(),
            total,
            normed,
            normed if narrow is None else narrow,
            mean,
            scale,
            mean if seed is None else seed,
            rows,
            width,
            eps,
            **drawn(dropout),
            ADDS=not alone,
            HAS_NARROW=narrow is not None,
            **settings,
        )
    return total, normed, narrow, mean, scale


def again(
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    scale: torch.Tensor,
    total: torch.Tensor,
    branch: torch.Tensor | None = None,
    *,
    dtype: torch.dtype,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """The norm [..., D] that `forward` gave, of the sum or of what was added; a new tensor, or the
    one that is given."""
    width = total.shape[-1]
    rows, settings = total.numel() // width, tiles(width)
    normed = torch.empty_like(total, dtype=dtype) if into is None else into
    if rows:
        norm_again_kernel[(triton.cdiv(rows, settings["BLOCK_M"]),)](
            total,
            total if branch is None else branch.contiguous(),
            weight.contiguous(),
            bias.contiguous(),
            mean,
            scale,
            normed,
            rows,
            width,
            HAS_BRANCH=branch is not None,
            **settings,
        )
    return normed
