"""Residual and layer norm in Triton: whole rows in registers, statistics in float32."""

import torch
import triton
import triton.language as tl

# Numbers of a thread forward and backward, where sums over rows stay in registers too, and threads
# of a program if its rows are no wider.
FORWARD, BACKWARD, THREADS = 16, 8, 128
# Programs of the backward pass: what the largest GPU's 132 processors hold at once is 4 or more.
PROGRAMS = 528
# Rows wider than this would fill the shared memory of smaller GPUs with those read ahead.
AHEAD = 2048


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
    rows,
    width,
    eps,
    HAS_NARROW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Sum, norm, in another dtype too if asked, mean and 1 / deviation of a few rows."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    d_mask, m_mask = d < width, m < rows
    mask = m_mask[:, None] & d_mask[None, :]
    places = m.to(tl.int64)[:, None] * width + d[None, :]
    total = tl.load(residual_ptr + places, mask, 0.0).to(tl.float32)
    total += tl.load(branch_ptr + places, mask, 0.0).to(tl.float32)
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


@triton.jit
def add_norm_backward_kernel(
    by_total_ptr,
    by_normed_ptr,
    by_narrow_ptr,
    total_ptr,
    branch_ptr,
    weight_ptr,
    mean_ptr,
    scale_ptr,
    by_residual_ptr,
    by_branch_ptr,
    by_weight_ptr,
    by_bias_ptr,
    rows,
    width,
    rows_each,
    HAS_TOTAL: tl.constexpr,
    HAS_NARROW: tl.constexpr,
    IN_PARTS: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient of the sum for a range of rows, and their part of weight's and bias's.

    In parts, the sum is read as what was added.
    """
    d = tl.arange(0, BLOCK_D)
    d_mask = d < width
    weight = tl.load(weight_ptr + d, d_mask, 0.0).to(tl.float32)
    by_weight = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    by_bias = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    first = tl.program_id(0) * rows_each
    last = tl.minimum(first + rows_each, rows)
    # In stages: reads run ahead through shared memory, not after one another's sums.
    for start in tl.range(first, last, BLOCK_M, num_stages=STAGES):
        m = start + tl.arange(0, BLOCK_M)
        m_mask = m < last
        mask = m_mask[:, None] & d_mask[None, :]
        places = m.to(tl.int64)[:, None] * width + d[None, :]
        upstream = tl.load(by_normed_ptr + places, mask, 0.0).to(tl.float32)
        if HAS_NARROW:
            upstream += tl.load(by_narrow_ptr + places, mask, 0.0).to(tl.float32)
        total = tl.load(total_ptr + places, mask, 0.0).to(tl.float32)
        if IN_PARTS:
            total += tl.load(branch_ptr + places, mask, 0.0).to(tl.float32)
            total = total.to(total_ptr.dtype.element_ty).to(tl.float32)
        mean = tl.load(mean_ptr + m, m_mask, 0.0)
        scale = tl.load(scale_ptr + m, m_mask, 0.0)
        unit = tl.where(mask, (total - mean[:, None]) * scale[:, None], 0.0)
        by_weight += upstream * unit
        by_bias += upstream
        upstream *= weight[None, :]
        along = tl.sum(upstream * unit, 1) / width
        level = tl.sum(upstream, 1) / width
        gradient = (upstream - unit * along[:, None] - level[:, None]) * scale[:, None]
        if HAS_TOTAL:
            gradient += tl.load(by_total_ptr + places, mask, 0.0).to(tl.float32)
        tl.store(by_residual_ptr + places, gradient.to(by_residual_ptr.dtype.element_ty), mask)
        if HAS_BRANCH:
            tl.store(by_branch_ptr + places, gradient.to(by_branch_ptr.dtype.element_ty), mask)
    own = tl.program_id(0) * width + d
    tl.store(by_weight_ptr + own, tl.sum(by_weight, 0), d_mask)
    tl.store(by_bias_ptr + own, tl.sum(by_bias, 0), d_mask)


def tiles(width: int, of_a_thread: int) -> dict[str, int]:
    """Constants of a launch over rows of this width."""
    block = triton.next_power_of_2(width)
    tile = max(THREADS * of_a_thread, block)
    return {"BLOCK_M": tile // block, "BLOCK_D": block, "num_warps": tile // of_a_thread // 32}


def forward(
    residual: torch.Tensor,
    branch: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    norm_dtype: torch.dtype | None,
    narrow_dtype: torch.dtype | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """Sum, norm and that in another dtype [..., D], mean and 1 / deviation [rows] float32."""
    residual, branch = residual.contiguous(), branch.contiguous()
    width = residual.shape[-1]
    rows = residual.numel() // width
    dtype = torch.promote_types(residual.dtype, branch.dtype)
    total = torch.empty_like(residual, dtype=dtype)
    normed = torch.empty_like(residual, dtype=norm_dtype or dtype)
    narrow = None if narrow_dtype is None else torch.empty_like(residual, dtype=narrow_dtype)
    mean = torch.empty(rows, device=residual.device, dtype=torch.float32)
    scale = torch.empty_like(mean)
    if rows:
        settings = tiles(width, FORWARD)
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
            rows,
            width,
            eps,
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
) -> torch.Tensor:
    """The norm [..., D] that `forward` gave, of the sum or of what was added."""
    width = total.shape[-1]
    rows, settings = total.numel() // width, tiles(width, FORWARD)
    normed = torch.empty_like(total, dtype=dtype)
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


def backward(
    by_total: torch.Tensor | None,
    by_normed: torch.Tensor,
    by_narrow: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    mean: torch.Tensor,
    scale: torch.Tensor,
    total: torch.Tensor,
    branch: torch.Tensor | None = None,
    *,
    dtypes: tuple[torch.dtype, torch.dtype],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of residual, branch, weight and bias; the first two are one tensor if alike."""
    width = total.shape[-1]
    rows, settings = total.numel() // width, tiles(width, BACKWARD)
    block = settings["BLOCK_M"]
    parts = max(1, min(PROGRAMS, triton.cdiv(rows, 2 * block)))
    rows_each = block * triton.cdiv(triton.cdiv(rows, block), parts)
    by_residual = torch.empty_like(total, dtype=dtypes[0])
    alike = dtypes[0] == dtypes[1]
    by_branch = by_residual if alike else torch.empty_like(total, dtype=dtypes[1])
    # Of weight and bias in one piece: one sum, where each would be a launch.
    partial = torch.empty(2, parts, width, device=total.device, dtype=torch.float32)
    by_normed = by_normed.contiguous()
    add_norm_backward_kernel[(parts,)](
        by_normed if by_total is None else by_total.contiguous(),
        by_normed,
        by_normed if by_narrow is None else by_narrow.contiguous(),
        total,
        total if branch is None else branch.contiguous(),
        weight.contiguous(),
        mean,
        scale,
        by_residual,
        by_branch,
        partial[0],
        partial[1],
        rows,
        width,
        rows_each,
        HAS_TOTAL=by_total is not None,
        HAS_NARROW=by_narrow is not None,
        IN_PARTS=branch is not None,
        HAS_BRANCH=not alike,
        STAGES=3 if width <= AHEAD else 1,
        **settings,
    )
    by_weight, by_bias = partial.sum(1)
    return by_residual, by_branch, by_weight.to(weight.dtype), by_bias.to(bias.dtype)
