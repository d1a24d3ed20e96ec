"""Gradients of attention of short sequences in Triton, written where the joined ones lie.

Two programs take a head: one holds all keys and values in shared memory while queries go by, and
makes the gradients of queries; the other holds queries and upstream gradients while keys go by.
They read the same numbers at the same time, so memory is asked once. Nothing is added by two
programs, so results are the same every time.

Sums over rows cost little here. Of queries' gradients they are added up before they are rounded.
The others are known without: weights of a query sum to 1, so gradients of values sum to the
upstream ones, and those of keys to 0, as one vector added to all keys changes no weight.
"""

import torch
import triton
import triton.language as tl

from kernels.attention_joined.triton_kernels import (
    LOG2_E,
    constants,
    edges,
    load_all,
    load_tile,
    store_tile,
)
from kernels.linear import triton_kernels as linear_kernels

# The largest tile of what is held.
LARGEST = 64


@triton.jit
def _store_sums(ptr, tile, WIDTH: tl.constexpr) -> None:
    """Of a tile's columns."""
    k = tl.arange(0, tile.shape[1])
    tl.store(ptr + k, tl.sum(tile, 0), k < WIDTH)


@triton.jit
def _by_queries(
    upstream_ptr, out_ptr, query_ptr, log_sum_ptr, by_query_ptr, sums_ptr, stride, width, scale,
    by_scale, HAS_COLUMNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, EDGES: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of all queries of a head."""
    WHOLE: tl.constexpr = LENGTH % TILE == 0 and WIDTH == BLOCK_K
    keys = load_all(query_ptr + width, stride, LENGTH, EDGES, WIDTH, BLOCK_K)
    values = load_all(query_ptr + 2 * width, stride, LENGTH, EDGES, WIDTH, BLOCK_K)
    sums = tl.zeros((TILE, BLOCK_K), tl.float32)
    for first in tl.range(0, LENGTH, TILE, num_stages=1, disable_licm=True):
        query = load_tile(query_ptr, first, stride, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        upstream = load_tile(upstream_ptr, first, width, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        out = load_tile(out_ptr, first, width, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        # The mean of the gradients of a query's weights (Dao et al. 2022, arXiv:2205.14135,
        # appendix B).
        agreed = tl.sum(upstream.to(tl.float32) * out.to(tl.float32), 1)
        log_sum = tl.load(log_sum_ptr + first + tl.arange(0, TILE))
        by_query = tl.zeros((TILE, BLOCK_K), tl.float32)
        for i in tl.static_range(len(EDGES) - 1):
            scores = tl.dot(query, tl.trans(keys[i])) * scale - log_sum[:, None]
            if EDGES[i + 1] > LENGTH:
                # A key that is not there adds 0, as it is 0, but its weight might be infinite.
                scores = tl.minimum(scores, 0.0)
            by_weights = tl.dot(upstream, tl.trans(values[i]))
            by_scores = tl.exp2(scores) * (by_weights - agreed[:, None])
            by_query = tl.dot(by_scores.to(query.dtype), keys[i], by_query)
        store_tile(by_query_ptr, by_query * by_scale, first, stride, LENGTH, WHOLE, WIDTH)
        if HAS_COLUMNS:
            # A query that is not there has no upstream gradient and finite weights: it adds 0.
            sums += by_query
    if HAS_COLUMNS:
        _store_sums(sums_ptr, sums * by_scale, WIDTH)


@triton.jit
def _by_keys(
    upstream_ptr, out_ptr, query_ptr, log_sum_ptr, agreed_ptr, by_query_ptr, sums_ptr, stride,
    width, scale, by_scale, HAS_COLUMNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, EDGES: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of all keys and values of a head.

    Tiles are [keys, queries]: weights are where the products want them, and nothing is turned.
    """
    WHOLE: tl.constexpr = LENGTH % TILE == 0 and WIDTH == BLOCK_K
    sums = tl.zeros((TILE, BLOCK_K), tl.float32)
    for first in tl.range(0, LENGTH, TILE, num_stages=1, disable_licm=True):
        upstream = load_tile(upstream_ptr, first, width, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        out = load_tile(out_ptr, first, width, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        agreed = tl.sum(upstream.to(tl.float32) * out.to(tl.float32), 1)
        tl.store(agreed_ptr + first + tl.arange(0, TILE), agreed)
        if HAS_COLUMNS:
            sums += upstream.to(tl.float32)
    if HAS_COLUMNS:
        _store_sums(sums_ptr + width, tl.zeros((TILE, BLOCK_K), tl.float32), WIDTH)
        _store_sums(sums_ptr + 2 * width, sums, WIDTH)
    # One thread's queries are another's below.
    tl.debug_barrier()
    queries = load_all(query_ptr, stride, LENGTH, EDGES, WIDTH, BLOCK_K)
    upstreams = load_all(upstream_ptr, width, LENGTH, EDGES, WIDTH, BLOCK_K)
    for first in tl.range(0, LENGTH, TILE, num_stages=1, disable_licm=True):
        key = load_tile(query_ptr + width, first, stride, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        value = load_tile(query_ptr + 2 * width, first, stride, LENGTH, TILE, WHOLE, WIDTH, BLOCK_K)
        by_key = tl.zeros((TILE, BLOCK_K), tl.float32)
        by_value = tl.zeros((TILE, BLOCK_K), tl.float32)
        for i in tl.static_range(len(EDGES) - 1):
            # A query that is not there has finite weights and no gradient: it adds 0. A key that
            # is not there may weigh infinitely much, but its row is its own and is not written.
            place = EDGES[i] + tl.arange(0, EDGES[i + 1] - EDGES[i])
            log_sum, agreed = tl.load(log_sum_ptr + place), tl.load(agreed_ptr + place)
            weights = tl.exp2(tl.dot(key, tl.trans(queries[i])) * scale - log_sum[None, :])
            by_value = tl.dot(weights.to(key.dtype), upstreams[i], by_value)
            by_weights = tl.dot(value, tl.trans(upstreams[i]))
            by_scores = weights * (by_weights - agreed[None, :])
            by_key = tl.dot(by_scores.to(key.dtype), queries[i], by_key)
        store_tile(by_query_ptr + width, by_key * by_scale, first, stride, LENGTH, WHOLE, WIDTH)
        store_tile(by_query_ptr + 2 * width, by_value, first, stride, LENGTH, WHOLE, WIDTH)


@triton.jit
def attention_joined_backward_kernel(
    upstream_ptr, out_ptr, joined_ptr, log_sum_ptr, agreed_ptr, by_joined_ptr, sums_ptr, heads,
    scale, by_scale, HAS_COLUMNS: tl.constexpr, LENGTH: tl.constexpr, WIDTH: tl.constexpr,
    TILE: tl.constexpr, EDGES: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of the queries, or of the keys and values, of one head of one sequence; with
    columns, their sums over rows too."""
    program = tl.program_id(0) // 2
    sequence, head = (program // heads).to(tl.int64), program % heads
    width = heads * WIDTH
    stride = 3 * width
    joined_ptr += sequence * LENGTH * stride + head * WIDTH
    by_joined_ptr += sequence * LENGTH * stride + head * WIDTH
    upstream_ptr += sequence * LENGTH * width + head * WIDTH
    out_ptr += sequence * LENGTH * width + head * WIDTH
    sums_ptr += sequence * stride + head * WIDTH
    log_sum_ptr += program * tl.cdiv(LENGTH, TILE) * TILE
    agreed_ptr += program * tl.cdiv(LENGTH, TILE) * TILE
    if tl.program_id(0) % 2 == 0:
        _by_queries(
            upstream_ptr, out_ptr, joined_ptr, log_sum_ptr, by_joined_ptr, sums_ptr, stride,
            width, scale, by_scale, HAS_COLUMNS, LENGTH, WIDTH, TILE, EDGES, BLOCK_K,
        )  # fmt: skip
    else:
        _by_keys(
            upstream_ptr, out_ptr, joined_ptr, log_sum_ptr, agreed_ptr, by_joined_ptr, sums_ptr,
            stride, width, scale, by_scale, HAS_COLUMNS, LENGTH, WIDTH, TILE, EDGES, BLOCK_K,
        )  # fmt: skip


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
    gradient, agreed = torch.empty_like(joined), torch.empty_like(log_sum)
    if not log_sum.numel():
        return gradient, None
    width = columns // (3 * heads)
    settings = constants(length, width) | {"EDGES": edges(length, LARGEST)}
    scale = width**-0.5
    sums = agreed
    if with_columns:
        sums = torch.empty(count, columns, device=joined.device, dtype=torch.float32)
    launch = attention_joined_backward_kernel[(count * heads * 2,)]
    tensors = (upstream, out, joined, log_sum, agreed, gradient, sums)
    launch(*tensors, heads, scale * LOG2_E, scale, HAS_COLUMNS=with_columns, **settings)
    return gradient, linear_kernels.column_sum(sums) if with_columns else None
