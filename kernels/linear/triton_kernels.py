"""Sums of columns in Triton: a bias's gradient, in one read of what it is the gradient of."""

import torch
import triton
import triton.language as tl

from kernels.parts import counters, ends_last, sum_of_parts

BLOCK_M, BLOCK_N, WARPS = 64, 64, 4
# Programs: four for each of the largest GPU's 132 processors, each of which has up to two tiles on
# their way to it: 64 kB a processor, where its share of the memory needs half of that.
PROGRAMS = 528
# Parts of a sum at most: the last program reads them all at once.
PARTS = 64


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
    for start in tl.range(first, last, BLOCK_M, num_stages=3):
        m = start + tl.arange(0, BLOCK_M)
        places = m.to(tl.int64)[:, None] * width + n[None, :]
        total += tl.load(x_ptr + places, (m < last)[:, None] & n_mask[None, :], 0.0).to(tl.float32)
    parts = tl.num_programs(1)
    tl.store(parts_ptr + tl.program_id(1) * width + n, tl.sum(total, 0), n_mask)
    if ends_last(counters_ptr + tl.program_id(0), parts):
        whole = sum_of_parts(parts_ptr, parts, width, n, n_mask, TOGETHER, BLOCK_N)
        tl.store(sums_ptr + n, whole, n_mask)


def split(rows: int, columns: int) -> tuple[int, int]:
    """Rows of a program, whole tiles, and how many programs share a column of tiles."""
    tiles = max(1, triton.cdiv(rows, BLOCK_M))
    each = triton.cdiv(tiles, max(1, min(PROGRAMS // columns, PARTS)))
    return each * BLOCK_M, triton.cdiv(tiles, each)


def column_sum(x: torch.Tensor) -> torch.Tensor:
    """[M, N] -> [N] float32, added up in one order."""
    x = x.contiguous()
    rows, width = x.shape
    columns = triton.cdiv(width, BLOCK_N)
    rows_each, parts = split(rows, columns)
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
        TOGETHER=PARTS,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        num_warps=WARPS,
    )
    return whole
