"""Rows and [queue | batch] keys as the products want them, cast and laid out once for all programs.

Of keys a tile is [E, BLOCK_N] of consecutive numbers. Rows and tiles are padded with zeros, so the
kernels that read them need no mask, and every start is one that 16 bytes at a time can be loaded
from, straight into shared memory, whatever the number of rows and the queue's strides.
"""

import torch
import triton
import triton.language as tl

WARPS = 8


@triton.jit(do_not_specialize=["rows", "padded_rows"])
def itc_pack_kernel(
    query_ptr,
    momentum_query_ptr,
    keys_ptr,
    queue_ptr,
    rows_ptr,
    packed_ptr,
    rows,
    padded_rows,
    queue_size,
    width,
    stride_n,
    stride_e,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One tile, of the queue or of the batch behind it; behind those, as many rows of each kind."""
    tile, queue_tiles = tl.program_id(0), tl.cdiv(queue_size, BLOCK_N)
    tiles = queue_tiles + tl.cdiv(rows, BLOCK_N)
    e, lane = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N)
    dtype = packed_ptr.dtype.element_ty
    out = packed_ptr + tile.to(tl.int64) * BLOCK_E * BLOCK_N + e[:, None] * BLOCK_N + lane[None, :]
    if tile < queue_tiles:
        n = tile * BLOCK_N + lane
        mask = (e < width)[:, None] & (n < queue_size)[None, :]
        places = n.to(tl.int64)[None, :] * stride_n + e.to(tl.int64)[:, None] * stride_e
        tl.store(out, tl.load(queue_ptr + places, mask, 0.0).to(dtype))
    elif tile < tiles:
        n = (tile - queue_tiles) * BLOCK_N + lane
        mask = (e < width)[:, None] & (n < rows)[None, :]
        places = n.to(tl.int64)[None, :] * width + e[:, None]
        tl.store(out, tl.load(keys_ptr + places, mask, 0.0).to(dtype))
    else:
        m = (tile - tiles) * BLOCK_N + lane
        m_mask = (m < rows)[:, None] & (e < width)[None, :]
        own = m.to(tl.int64)[:, None] * width + e[None, :]
        row_out = rows_ptr + m.to(tl.int64)[:, None] * BLOCK_E + e[None, :]
        tl.store(row_out, tl.load(query_ptr + own, m_mask, 0.0).to(dtype))
        row_out += tl.cast(padded_rows, tl.int64) * BLOCK_E
        tl.store(row_out, tl.load(momentum_query_ptr + own, m_mask, 0.0).to(dtype))


def pack(
    query_BE: torch.Tensor,
    momentum_query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    queue_QE: torch.Tensor,
    dtype: torch.dtype,
    *,
    block_m: int,
    block_n: int,
    block_e: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[2, rows, block_e], online and momentum, and [tiles, block_e, block_n], queue and batch.

    Args:
        query_BE: contiguous, like the next two.
        momentum_query_BE: of the same samples.
        keys_BE: of the batch.
        queue_QE: any strides; Q may be 0.
        dtype: of the results.
        block_m: rows are padded to; a multiple of block_n.
        block_n: keys a tile.
        block_e: features, padded.
    """
    (rows, width), queue_size, device = keys_BE.shape, len(queue_QE), keys_BE.device
    padded_rows = triton.cdiv(rows, block_m) * block_m
    tiles = triton.cdiv(queue_size, block_n) + triton.cdiv(rows, block_n)
    both = torch.empty(2, padded_rows, block_e, dtype=dtype, device=device)
    packed = torch.empty(tiles, block_e, block_n, dtype=dtype, device=device)
    itc_pack_kernel[(tiles + padded_rows // block_n,)](
        query_BE,
        momentum_query_BE,
        keys_BE,
        queue_QE,
        both,
        packed,
        rows,
        padded_rows,
        queue_size,
        width,
        queue_QE.stride(0),
        queue_QE.stride(1),
        BLOCK_N=block_n,
        BLOCK_E=block_e,
        num_warps=WARPS,
    )
    return both, packed
