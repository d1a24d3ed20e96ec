"""Sums of columns in Triton: a bias's gradient, in one read of what it is the gradient of."""

import torch
import triton
import triton.language as tl

from kernels.parts import TOGETHER, counters, ends_last, sum_of_parts

BLOCK_M, BLOCK_N, WARPS = 32, 128, 4
# Programs: enough to fill the largest GPU several times over.
PROGRAMS = 1024


@triton.jit
def column_sum_kernel(
    x_ptr,
    parts_ptr,
    counters_ptr,
    sums_ptr,
    rows,
    width,
    rows_each,
    TOGETHER: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Sums of a range of rows of some columns; the last of these columns' programs adds up."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    n_mask = n < width
    first = tl.program_id(1) * rows_each
    last = tl.minimum(first + rows_each, rows)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(first, last, BLOCK_M):
        m = start + tl.arange(0, BLOCK_M)
        places = m.to(tl.int64)[:, None] * width + n[None, :]
        total += tl.load(x_ptr + places, (m < last)[:, None] & n_mask[None, :], 0.0).to(tl.float32)
    parts = tl.num_programs(1)
    tl.store(parts_ptr + tl.program_id(1) * width + n, tl.sum(total, 0), n_mask)
    if ends_last(counters_ptr + tl.program_id(0), parts):
        whole = sum_of_parts(parts_ptr, parts, width, n, n_mask, TOGETHER, BLOCK_N)
        tl.store(sums_ptr + n, whole, n_mask)


def column_sum(x: torch.Tensor) -> torch.Tensor:
    """[M, N] -> [N] float32, added up in one order."""
    x = x.contiguous()
    rows, width = x.shape
    columns = triton.cdiv(width, BLOCK_N)
    parts = max(1, min(PROGRAMS // columns, triton.cdiv(rows, 4 * BLOCK_M)))
    rows_each = BLOCK_M * triton.cdiv(triton.cdiv(rows, BLOCK_M), parts)
    partial = torch.empty(parts, width, device=x.device, dtype=torch.float32)
    whole = torch.empty(width, device=x.device, dtype=torch.float32)
    column_sum_kernel[(columns, parts)](
        x,
        partial,
        counters(x.device),
        whole,
        rows,
        width,
        rows_each,
        TOGETHER=TOGETHER,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        num_warps=WARPS,
    )
    return whole
