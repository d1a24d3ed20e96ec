"""Attention of short sequences in Triton: a program holds all keys and values of one head.

They stay in shared memory while queries go by in tiles, so that each number is read once, and a
tile's row of scores is in registers at once: no weight is computed twice. Keys are cut into tiles
of sizes that are powers of two, whose sum is little above their number: 197 are 128 + 64 + 16.
"""

from typing import Any

import torch
import triton
import triton.language as tl

# Stands for minus infinity: a key that is not there.
UNSEEN = tl.constexpr(-1e30)
LOG2_E = 1.4426950408889634
# Queries of a tile: 64 rows are what four warps multiply together.
TILE, WARPS = 64, 4
# The largest tile of keys.
LARGEST = 128
SMALLEST = 16


@triton.jit
def load_rows(
    ptr, first, stride, LENGTH: tl.constexpr, N: tl.constexpr, WHOLE: tl.constexpr,
    WIDTH: tl.constexpr, K: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """Rows [N, K] of a head from `first` on, zeros where there is none."""
    row, k = first + tl.arange(0, N), tl.arange(0, K)
    places = ptr + row[:, None] * stride + k[None, :]
    if WHOLE and WIDTH == K:
        return tl.load(places)
    return tl.load(places, (row < LENGTH)[:, None] & (k < WIDTH)[None, :], 0.0)


@triton.jit
def store_tile(
    ptr, tile, first, stride, LENGTH: tl.constexpr, WHOLE: tl.constexpr, WIDTH: tl.constexpr
) -> None:
    """Rows of a head from `first` on."""
    row, k = first + tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    places, tile = ptr + row[:, None] * stride + k[None, :], tile.to(ptr.dtype.element_ty)
    if WHOLE:
        tl.store(places, tile)
    else:
        tl.store(places, tile, (row < LENGTH)[:, None] & (k < WIDTH)[None, :])


@triton.jit
def load_all(
    ptr, stride, LENGTH: tl.constexpr, EDGES: tl.constexpr, WIDTH: tl.constexpr, K: tl.constexpr
) -> tl.tuple:
    """All rows of a head, in tiles between the edges."""
    tiles = ()
    for i in tl.static_range(len(EDGES) - 1):
        tile = load_rows(
            ptr, EDGES[i], stride, LENGTH, EDGES[i + 1] - EDGES[i],
            EDGES[i + 1] <= LENGTH and WIDTH == K, WIDTH, K,
        )  # fmt: skip
        tiles = tiles + (tile,)
    return tiles


@triton.jit
def attention_joined_kernel(
    joined_ptr, out_ptr, log_sum_ptr, scale, LENGTH: tl.constexpr, HEADS: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, EDGES: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One head of one sequence; sums of weights as logarithms to base 2."""
    program = tl.program_id(0)
    sequence, head = (program // HEADS).to(tl.int64), program % HEADS
    ALL: tl.constexpr = HEADS * WIDTH
    STRIDE: tl.constexpr = 3 * ALL
    WHOLE: tl.constexpr = LENGTH % TILE == 0 and WIDTH == BLOCK_K
    query_ptr = joined_ptr + sequence * LENGTH * STRIDE + head * WIDTH
    out_ptr += sequence * LENGTH * ALL + head * WIDTH
    log_sum_ptr += program * PADDED
    query = load_rows(query_ptr, 0, STRIDE, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
    keys = load_all(query_ptr + ALL, STRIDE, LENGTH, EDGES, WIDTH, BLOCK_K)
    values = load_all(query_ptr + 2 * ALL, STRIDE, LENGTH, EDGES, WIDTH, BLOCK_K)
    # What the compiler would take out of the loop are the addresses of all tiles' products: they
    # would fill the registers.
    for first in tl.range(0, LENGTH, TILE, num_stages=1, disable_licm=True):
        # Read while this tile is multiplied; the last one's is not there.
        coming = load_rows(query_ptr, first + TILE, STRIDE, LENGTH, TILE, False, WIDTH, BLOCK_K)
        top = tl.full((TILE,), UNSEEN, tl.float32)
        row = ()
        for i in tl.static_range(len(EDGES) - 1):
            scores = tl.dot(query, tl.trans(keys[i]))
            if EDGES[i + 1] > LENGTH:
                number = EDGES[i] + tl.arange(0, EDGES[i + 1] - EDGES[i])
                scores = tl.where((number < LENGTH)[None, :], scores, UNSEEN)
            top = tl.maximum(top, tl.max(scores, 1))
            row = row + (scores,)
        # Scaled after the maximum: one instruction with the difference.
        top *= scale
        total = tl.zeros((TILE,), tl.float32)
        out = tl.zeros((TILE, BLOCK_K), tl.float32)
        for i in tl.static_range(len(EDGES) - 1):
            weights = tl.exp2(row[i] * scale - top[:, None])
            total += tl.sum(weights, 1)
            out = tl.dot(weights.to(query.dtype), values[i], out)
        out *= (1 / total)[:, None]
        store_tile(out_ptr, out, first, ALL, LENGTH, WHOLE, WIDTH)
        tl.store(log_sum_ptr + first + tl.arange(0, TILE), top + tl.log2(total))
        query = coming


def edges(length: int, largest: int) -> tuple[int, ...]:
    """Where tiles of so many rows begin, and where the last ends: each as large as it can be."""
    found, end = [0], triton.cdiv(length, SMALLEST) * SMALLEST
    while found[-1] < end:
        found.append(found[-1] + min(largest, 1 << (end - found[-1]).bit_length() - 1))
    return tuple(found)


def sizes(length: int, heads: int, width: int) -> dict[str, int]:
    """What a launch of either kernel is compiled for: sums of weights stand in whole tiles."""
    padded = triton.cdiv(length, TILE) * TILE
    of_heads = {"HEADS": heads, "WIDTH": width, "BLOCK_K": max(16, triton.next_power_of_2(width))}
    return {"LENGTH": length, "PADDED": padded} | of_heads


def constants(length: int, heads: int, width: int) -> dict[str, Any]:
    """Of a launch."""
    tiles = {"TILE": TILE, "EDGES": edges(length, LARGEST), "num_warps": WARPS}
    return sizes(length, heads, width) | tiles


def forward(joined: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attention_joined`, of contiguous numbers.

    Returns:
        [B, P, H K], and logarithms of the sums of weights [B, H, whole tiles] float32: what stands
        behind the tokens' is finite.
    """
    count, length, columns = joined.shape
    width = columns // (3 * heads)
    out = torch.empty(count, length, heads * width, device=joined.device, dtype=joined.dtype)
    whole = triton.cdiv(length, TILE) * TILE
    log_sum = torch.empty(count, heads, whole, device=joined.device, dtype=torch.float32)
    if log_sum.numel():
        launch = attention_joined_kernel[(count * heads,)]
        scale = width**-0.5 * LOG2_E
        launch(joined, out, log_sum, scale, **constants(length, heads, width))
    return out, log_sum
