"""The way back through residual and layer norm: all gradients in one pass over the rows."""

from functools import partial

import torch
import triton
import triton.language as tl

from kernels.add_norm.triton_kernels import drawn, stays, tiles
from kernels.parts import counters, rows_of_parts, sum_in_groups, together

# Numbers of a thread, beside which sums over rows stay in registers, and threads of a program if
# its rows are no wider.
NUMBERS, THREADS = 4, 256
# Programs: two for each of the largest GPU's 132 processors, which end together.
PROGRAMS = 264
# Tiles of rows for each program at least: what it adds up is added up again by others.
LEAST = 4
# Stages of reads ahead; of rows wider than this they would fill the shared memory of smaller GPUs.
STAGES, AHEAD = 5, 2048


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
    parts_ptr,
    counters_ptr,
    sums_ptr,
    seed_ptr,
    rows,
    width,
    rows_each,
    threshold,
    rescale,
    HAS_TOTAL: tl.constexpr,
    HAS_NARROW: tl.constexpr,
    IN_PARTS: tl.constexpr,
    HAS_BRANCH: tl.constexpr,
    HAS_COLUMNS: tl.constexpr,
    DROPOUT: tl.constexpr,
    STAGES: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradient of the sum for a range of rows, and their part of weight's and bias's.

    In parts, the sum is read as what was added; never with dropout. With columns, the branch's
    gradient is added up too, before it is rounded.
    """
    d = tl.arange(0, BLOCK_D)
    d_mask = d < width
    weight = tl.load(weight_ptr + d, d_mask, 0.0).to(tl.float32)
    by_weight = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    by_bias = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if HAS_COLUMNS:
        columns = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
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
        # Past rows and columns it is finite, and all that it meets there is zero or not stored.
        unit = (total - mean[:, None]) * scale[:, None]
        by_weight += upstream * unit
        by_bias += upstream
        upstream *= weight[None, :]
        # Both at once: each sum of its own would have the program's warps wait for one another.
        along, level = tl.split(tl.sum(tl.join(upstream * unit, upstream), 1) / width)
        gradient = (upstream - unit * along[:, None] - level[:, None]) * scale[:, None]
        if HAS_TOTAL:
            gradient += tl.load(by_total_ptr + places, mask, 0.0).to(tl.float32)
        tl.store(by_residual_ptr + places, gradient.to(by_residual_ptr.dtype.element_ty), mask)
        if DROPOUT:
            gradient = tl.where(stays(tl.load(seed_ptr), m, d, threshold), gradient * rescale, 0.0)
        if HAS_BRANCH:
            tl.store(by_branch_ptr + places, gradient.to(by_branch_ptr.dtype.element_ty), mask)
        if HAS_COLUMNS:
            columns += gradient
    KINDS: tl.constexpr = 2 + HAS_COLUMNS
    own = parts_ptr + tl.program_id(0) * KINDS * width + d
    tl.store(own, tl.sum(by_weight, 0), d_mask)
    tl.store(own + width, tl.sum(by_bias, 0), d_mask)
    if HAS_COLUMNS:
        tl.store(own + 2 * width, tl.sum(columns, 0), d_mask)
    sum_in_groups(parts_ptr, counters_ptr, sums_ptr, width, KINDS, TOGETHER, BLOCK_D)


def constants(width: int) -> dict[str, int]:
    """Of a launch over rows of this width."""
    settings = tiles(width, NUMBERS, THREADS)
    stages = STAGES if width <= AHEAD else 1
    return settings | {"TOGETHER": together(settings["BLOCK_D"]), "STAGES": stages}


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
    with_columns: bool = False,
    seed: torch.Tensor | None = None,
    dropout: float = 0.0,
    into: torch.Tensor | None = None,
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of residual, branch, weight and bias, and if asked the branch's added up over all
    rows, [D] float32. The first two are one tensor if alike, unless one is given for the first.
    Seed and dropout are `forward`'s."""
    width = total.shape[-1]
    rows, settings = total.numel() // width, constants(width)
    blocks = triton.cdiv(rows, settings["BLOCK_M"])
    blocks_each = max(LEAST, triton.cdiv(blocks, PROGRAMS))
    programs, kinds = max(1, triton.cdiv(blocks, blocks_each)), 2 + with_columns
    by_residual = torch.empty_like(total, dtype=dtypes[0]) if into is None else into
    alike = dtypes[0] == dtypes[1] and not dropout and into is None
    by_branch = by_residual if alike else torch.empty_like(total, dtype=dtypes[1])
    new = partial(torch.empty, device=total.device, dtype=torch.float32)
    sums = new(kinds, width)
    by_normed = by_normed.contiguous()
    add_norm_backward_kernel[(programs,)](
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
        new(rows_of_parts(programs), kinds, width),
        counters(total.device),
        sums,
        mean if seed is None else seed,
        rows,
        width,
        blocks_each * settings["BLOCK_M"],
        HAS_TOTAL=by_total is not None,
        HAS_NARROW=by_narrow is not None,
        IN_PARTS=branch is not None,
        HAS_BRANCH=not alike,
        HAS_COLUMNS=with_columns,
        **drawn(dropout),
        **settings,
    )
    by_weight, by_bias, *columns = sums
    found = (by_residual, by_branch, by_weight.to(weight.dtype), by_bias.to(bias.dtype))
    return *found, *(columns or [None])
