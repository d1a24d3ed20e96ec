"""Attention of longer sequences in Triton, without a way back: keys and values go by in tiles.

A program has some queries of one head. As in flash attention (Dao 2023, arXiv:2307.08691) the
highest score so far is known, and what was added up is scaled when it rises. Pictures of 384 pixels
have 577 tokens, one more than nine tiles: what is left over gets the smallest tile there is.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.attention_joined.triton_kernels import (
    LOG2_E,
    UNSEEN,
    edges,
    load_rows,
    sizes,
    store_tile,
)

# Queries of a program; keys at a time, and reads that run ahead.
TILE_Q, TILE_S, WARPS, STAGES = 64, 64, 4, 3


@triton.jit
def attend_tile(
    query, highest, total, seen, key_ptr, first, stride, scale, LENGTH: tl.constexpr,
    ALL: tl.constexpr, N: tl.constexpr, WHOLE: tl.constexpr, WIDTH: tl.constexpr, K: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """What is known of the queries, after N more keys."""
    key = load_rows(key_ptr, first, stride, LENGTH, N, WHOLE, WIDTH, K)
    value = load_rows(key_ptr + ALL, first, stride, LENGTH, N, WHOLE, WIDTH, K)
    scores = tl.dot(query, tl.trans(key))
    if not WHOLE:
        scores = tl.where((first + tl.arange(0, N) < LENGTH)[None, :], scores, UNSEEN)
    higher = tl.maximum(highest, tl.max(scores, 1) * scale)
    weights, decay = tl.exp2(scores * scale - higher[:, None]), tl.exp2(highest - higher)
    total = total * decay + tl.sum(weights, 1)
    seen = tl.dot(weights.to(value.dtype), value, seen * decay[:, None])
    return higher, total, seen


@triton.jit
def attention_streamed_kernel(
    joined_ptr, out_ptr, scale, LENGTH: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_K: tl.constexpr, TILE_Q: tl.constexpr, TILE_S: tl.constexpr, EDGES: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Some queries of one head of one sequence; neighbours read the same keys and values."""
    TILES: tl.constexpr = (LENGTH + TILE_Q - 1) // TILE_Q
    program, first = tl.program_id(0) // TILES, tl.program_id(0) % TILES * TILE_Q
    sequence, head = (program // HEADS).to(tl.int64), program % HEADS
    ALL: tl.constexpr = HEADS * WIDTH
    STRIDE: tl.constexpr = 3 * ALL
    WHOLE: tl.constexpr = LENGTH % TILE_Q == 0 and WIDTH == BLOCK_K
    query_ptr = joined_ptr + sequence * LENGTH * STRIDE + head * WIDTH
    query = load_rows(query_ptr, first, STRIDE, LENGTH, TILE_Q, WHOLE, WIDTH, BLOCK_K)
    highest = tl.full((TILE_Q,), UNSEEN, tl.float32)
    total = tl.zeros((TILE_Q,), tl.float32)
    seen = tl.zeros((TILE_Q, BLOCK_K), tl.float32)
    ENDS: tl.constexpr = LENGTH // TILE_S * TILE_S
    for start in tl.range(0, ENDS, TILE_S, num_stages=STAGES):
        highest, total, seen = attend_tile(
            query, highest, total, seen, query_ptr + ALL, start, STRIDE, scale, LENGTH, ALL,
            TILE_S, WIDTH == BLOCK_K, WIDTH, BLOCK_K,
        )  # fmt: skip
    for i in tl.static_range(len(EDGES) - 1):
        highest, total, seen = attend_tile(
            query, highest, total, seen, query_ptr + ALL, ENDS + EDGES[i], STRIDE, scale, LENGTH,
            ALL, EDGES[i + 1] - EDGES[i], False, WIDTH, BLOCK_K,
        )  # fmt: skip
    seen *= (1 / total)[:, None]
    store_tile(
        out_ptr + sequence * LENGTH * ALL + head * WIDTH, seen, first, ALL, LENGTH, WHOLE, WIDTH
    )


def constants(length: int, heads: int, width: int) -> dict[str, Any]:
    """Of a launch."""
    found = sizes(length, heads, width)
    del found["PADDED"]
    tiles = {"TILE_Q": TILE_Q, "TILE_S": TILE_S, "EDGES": edges(length % TILE_S, TILE_S)}
    return found | tiles | {"STAGES": STAGES, "num_warps": WARPS}


def forward(joined: torch.Tensor, heads: int) -> torch.Tensor:
    """As `attention_joined`, of contiguous numbers: [B, P, H K]."""
    count, length, columns = joined.shape
    width = columns // (3 * heads)
    out = torch.empty(count, length, heads * width, device=joined.device, dtype=joined.dtype)
    if out.numel():
        launch = attention_streamed_kernel[(count * heads * triton.cdiv(length, TILE_Q),)]
        launch(joined, out, width**-0.5 * LOG2_E, **constants(length, heads, width))
    return out
