"""Gradients of attention of short sequences in Triton, written where the joined ones lie.

A program makes all gradients of one head with the five products that there are. It holds queries
and upstream gradients in shared memory while keys and values go by, and the gradients of all
queries in registers, so no weight is computed twice. Tiles are [keys, queries]: weights are where
the products for values and keys want them; only gradients of scores, for the queries', go through
shared memory. Nothing is added by two programs, so results are the same every time. Weights and
their gradients are rounded as the definition rounds them, which halves the registers they take.

Sums over rows cost little here. Of queries' gradients they are added up before they are rounded.
The others are known without: weights of a query sum to 1, so gradients of values sum to the
upstream ones, and those of keys to 0, as one vector added to all keys changes no weight.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.attention_joined.triton_kernels import (
    LOG2_E,
    edges,
    load_all,
    load_rows,
    sizes,
    store_tile,
)
from kernels.linear import triton_kernels as linear_kernels

# Up to so many rows four warps hold the gradients of all queries, and a processor two programs.
FEW = 208
# The largest tile of queries.
LARGEST = 64
# Heads are rows of the products for queries, and four warps multiply 64 of them: a narrower head
# has rows of 0.
BLOCK_K = 64


@triton.jit
def _before(
    upstreams, out_ptr, less_ptr, sums_ptr, HAS_COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    LENGTH: tl.constexpr, EDGES: tl.constexpr, LARGEST: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """What upstream gradients alone tell: of each query's weights the mean gradient, negative (Dao
    et al. 2022, arXiv:2205.14135, appendix B), and the sums of values' gradients."""
    outs = load_all(out_ptr, STRIDE, LENGTH, EDGES, WIDTH, BLOCK_K)
    sums, rest = tl.zeros((LARGEST, BLOCK_K), tl.float32), tl.zeros((BLOCK_K,), tl.float32)
    for i in tl.static_range(len(EDGES) - 1):
        upstream = upstreams[i].to(tl.float32)
        place = EDGES[i] + tl.arange(0, EDGES[i + 1] - EDGES[i])
        tl.store(less_ptr + place, -tl.sum(upstream * outs[i].to(tl.float32), 1))
        if EDGES[i + 1] - EDGES[i] == LARGEST:
            sums += upstream
        else:
            rest += tl.sum(upstream, 0)
    if HAS_COLUMNS:
        k = tl.arange(0, BLOCK_K)
        tl.store(sums_ptr + k, tl.sum(sums, 0) + rest, k < WIDTH)
    # One thread's queries are another's later.
    tl.debug_barrier()


@triton.jit
def _store_queries(
    by_query_ptr, by_queries, sums_ptr, by_scale, HAS_COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    LENGTH: tl.constexpr, EDGES: tl.constexpr, LARGEST: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Tiles [K, queries], and their sums over queries: one that is not there has a gradient of 0,
    as its upstream one is 0 and its weights are finite."""
    sums, rest = tl.zeros((BLOCK_K, LARGEST), tl.float32), tl.zeros((BLOCK_K,), tl.float32)
    for i in tl.static_range(len(EDGES) - 1):
        by_query = by_queries[i] * by_scale
        store_tile(
            by_query_ptr, tl.trans(by_query), EDGES[i], STRIDE, LENGTH,
            EDGES[i + 1] <= LENGTH and WIDTH == BLOCK_K, WIDTH,
        )  # fmt: skip
        if EDGES[i + 1] - EDGES[i] == LARGEST:
            sums += by_query
        else:
            rest += tl.sum(by_query, 1)
    if HAS_COLUMNS:
        k = tl.arange(0, BLOCK_K)
        tl.store(sums_ptr + k, tl.sum(sums, 1) + rest, k < WIDTH)


@triton.jit
def attention_joined_backward_kernel(
    upstream_ptr, out_ptr, joined_ptr, log_sum_ptr, less_ptr, by_joined_ptr, sums_ptr, scale,
    by_scale, HAS_COLUMNS: tl.constexpr, LENGTH: tl.constexpr, HEADS: tl.constexpr,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, EDGES: tl.constexpr,
    LARGEST: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of one head of one sequence; with columns, their sums over rows too."""
    program = tl.program_id(0)
    sequence, head = (program // HEADS).to(tl.int64), program % HEADS
    ALL: tl.constexpr = HEADS * WIDTH
    STRIDE: tl.constexpr = 3 * ALL
    WHOLE: tl.constexpr = LENGTH % TILE == 0 and WIDTH == BLOCK_K
    joined_ptr += sequence * LENGTH * STRIDE + head * WIDTH
    by_joined_ptr += sequence * LENGTH * STRIDE + head * WIDTH
    upstream_ptr += sequence * LENGTH * ALL + head * WIDTH
    out_ptr += sequence * LENGTH * ALL + head * WIDTH
    sums_ptr += sequence * STRIDE + head * WIDTH
    log_sum_ptr += program * PADDED
    less_ptr += program * PADDED
    key_ptr, value_ptr = joined_ptr + ALL, joined_ptr + 2 * ALL
    queries = load_all(joined_ptr, STRIDE, LENGTH, EDGES, WIDTH, BLOCK_K)
    upstreams = load_all(upstream_ptr, ALL, LENGTH, EDGES, WIDTH, BLOCK_K)
    _before(
        upstreams, out_ptr, less_ptr, sums_ptr + 2 * ALL, HAS_COLUMNS, WIDTH, LENGTH, EDGES,
        LARGEST, ALL, BLOCK_K,
    )  # fmt: skip
    if HAS_COLUMNS:
        k = tl.arange(0, BLOCK_K)
        tl.store(sums_ptr + ALL + k, tl.zeros((BLOCK_K,), tl.float32), k < WIDTH)
    by_queries = ()
    for i in tl.static_range(len(EDGES) - 1):
        by_queries = by_queries + (tl.zeros((BLOCK_K, EDGES[i + 1] - EDGES[i]), tl.float32),)
    # What the compiler would take out of the loop are the addresses of all tiles' products: they
    # would fill the registers.
    for first in tl.range(0, LENGTH, TILE, num_stages=1, disable_licm=True):
        key = load_rows(key_ptr, first, STRIDE, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        value = load_rows(value_ptr, first, STRIDE, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        by_key = tl.zeros((TILE, BLOCK_K), tl.float32)
        by_value = tl.zeros((TILE, BLOCK_K), tl.float32)
        added = ()
        for i in tl.static_range(len(EDGES) - 1):
            place = EDGES[i] + tl.arange(0, EDGES[i + 1] - EDGES[i])
            log_sum, less = tl.load(log_sum_ptr + place), tl.load(less_ptr + place)
            scores = tl.dot(key, tl.trans(queries[i])) * scale - log_sum[None, :]
            if LENGTH % TILE:
                # A key that is not there adds 0, as it is 0, but its weight might be infinite.
                scores = tl.minimum(scores, 0.0)
            weights = tl.exp2(scores).to(key.dtype)
            by_value = tl.dot(weights, upstreams[i], by_value)
            by_weights = tl.broadcast_to(less[None, :], scores.shape)
            by_weights = tl.dot(value, tl.trans(upstreams[i]), by_weights)
            by_scores = weights * by_weights.to(key.dtype)
            by_key = tl.dot(by_scores, queries[i], by_key)
            added = added + (tl.dot(tl.trans(key), by_scores, by_queries[i]),)
        by_queries = added
        store_tile(by_joined_ptr + ALL, by_key * by_scale, first, STRIDE, LENGTH, WHOLE, WIDTH)
        store_tile(by_joined_ptr + 2 * ALL, by_value, first, STRIDE, LENGTH, WHOLE, WIDTH)
    _store_queries(
        by_joined_ptr, by_queries, sums_ptr, by_scale, HAS_COLUMNS, WIDTH, LENGTH, EDGES, LARGEST,
        STRIDE, BLOCK_K,
    )  # fmt: skip


def mirrored(length: int) -> tuple[int, ...]:
    """Where tiles of queries begin: the smallest first, and the last as large as any.

    A narrower one behind the last use of a value would have its gradients of scores where that
    stood in shared memory, and ptxas 12.8 (Triton 3.6) then takes their address from a register
    that nothing has set.
    """
    if length <= LARGEST:
        return 0, LARGEST
    found = edges(length, LARGEST)
    return tuple(found[-1] - edge for edge in reversed(found))


def constants(length: int, heads: int, width: int) -> dict[str, Any]:
    """Of a launch."""
    warps, tile = (4, 64) if length <= FEW else (8, 128)
    tiles = {"TILE": tile, "EDGES": mirrored(length), "LARGEST": LARGEST, "BLOCK_K": BLOCK_K}
    return sizes(length, heads, width) | tiles | {"num_warps": warps}


def backward(
    upstream: torch.Tensor,
    joined: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    *,
    with_columns: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gradient [B, P, 3 H K] of what `forward` got, from what it gave, and if asked its sum over
    all tokens, [3 H K] float32."""
    (count, length, columns), heads = joined.shape, log_sum.shape[1]
    gradient, less = torch.empty_like(joined), torch.empty_like(log_sum)
    if not log_sum.numel():
        return gradient, None
    width = columns // (3 * heads)
    scale = width**-0.5
    sums = less
    if with_columns:
        sums = torch.empty(count, columns, device=joined.device, dtype=torch.float32)
    launch = attention_joined_backward_kernel[(count * heads,)]
    tensors = (upstream, out, joined, log_sum, less, gradient, sums)
    settings = constants(length, heads, width)
    launch(*tensors, scale * LOG2_E, scale, HAS_COLUMNS=with_columns, **settings)
    return gradient, linear_kernels.column_sum(sums) if with_columns else None
