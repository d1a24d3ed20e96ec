"""Attention of short packed rows in Triton: a program holds one head of one row in registers.

Everything is read once and written once. The way back computes the weights again, and the mask
of dropout from its counter: (row, head, query, key) under the seed of the call. A program writes
its row's tokens and, up to the next row, zeros for tokens of no row.
"""

from typing import Any

import torch
import triton
import triton.language as tl

SHORT = tl.constexpr(16)
# Stands for minus infinity: a row without keys stays finite.
UNSEEN = tl.constexpr(-1e30)
# Of a counter's place for a query: rows are not longer.
LONGEST = tl.constexpr(64)
# The fewest with which Philox passes all tests of BigCrush (Salmon et al. 2011, table 2).
ROUNDS = tl.constexpr(7)


@triton.jit
def _load(ptr, first, length, stride, head, WIDTH: tl.constexpr, L: tl.constexpr, K: tl.constexpr):
    """[L, K] of a row's head, zeros where there is no token."""
    token, k = tl.arange(0, L), tl.arange(0, K)
    mask = (token < length)[:, None] & (k < WIDTH)[None, :]
    return tl.load(ptr + (first + token)[:, None] * stride + head * WIDTH + k[None, :], mask, 0.0)


@triton.jit
def _store(ptr, tile, first, length, stride, head, WIDTH: tl.constexpr):
    """A row's head, [L, K]."""
    token, k = tl.arange(0, tile.shape[0]), tl.arange(0, tile.shape[1])
    mask = (token < length)[:, None] & (k < WIDTH)[None, :]
    places = (first + token)[:, None] * stride + head * WIDTH + k[None, :]
    tl.store(ptr + places, tile.to(ptr.dtype.element_ty), mask)


@triton.jit
def _clear(
    ptr, first_ptr, row, rows, end, tokens, stride, head, WIDTH: tl.constexpr, K: tl.constexpr
):
    """Zeros from a row's end to the next row's beginning."""
    following = tl.load(first_ptr + row + 1, row + 1 < rows, tokens).to(tl.int64)
    for place in range(end, following, SHORT):
        zeros = tl.zeros((SHORT, K), tl.float32)
        _store(ptr, zeros, place, following - place, stride, head, WIDTH)


@triton.jit
def _weights(query, key, length, scale, CAUSAL: tl.constexpr):
    """softmax(scale q k^T) [queries, keys] in float32."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    j = tl.arange(0, key.shape[0])[None, :]
    seen = j < length
    if CAUSAL:
        seen = seen & (j <= tl.arange(0, query.shape[0])[:, None])
    scores = tl.where(seen, scores, UNSEEN)
    weights = tl.exp(scores - tl.max(scores, 1)[:, None])
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _kept(seed, row, head, threshold, Q: tl.constexpr, L: tl.constexpr):
    """Which weights [Q, L] dropout keeps, whatever the sizes of the tile."""
    cell = tl.arange(0, Q)[:, None] * LONGEST + tl.arange(0, L)[None, :]
    zero = cell * 0
    word, _, _, _ = tl.philox(seed, cell, zero + row, zero + head, zero, n_rounds=ROUNDS)
    return (word >> 1).to(tl.int32) >= threshold


@triton.jit
def _forward(
    query_ptr, key_ptr, value_ptr, out_ptr, seed_ptr, row, head, query_first, query_length,
    first, length, query_stride, key_stride, value_stride, out_stride, scale, threshold, rescale,
    WIDTH: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr, Q: tl.constexpr,
    L: tl.constexpr, K: tl.constexpr,
):  # fmt: skip
    query = _load(query_ptr, query_first, query_length, query_stride, head, WIDTH, Q, K)
    key = _load(key_ptr, first, length, key_stride, head, WIDTH, L, K)
    value = _load(value_ptr, first, length, value_stride, head, WIDTH, L, K)
    weights = _weights(query, key, length, scale, CAUSAL)
    if DROPOUT:
        kept = _kept(tl.load(seed_ptr), row, head, threshold, Q, L)
        weights = tl.where(kept, weights * rescale, 0.0)
    out = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
    _store(out_ptr, out, query_first, query_length, out_stride, head, WIDTH)


@triton.jit(do_not_specialize=["rows", "queries", "threshold"])
def attention_rows_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, seed_ptr, query_first_ptr, query_length_ptr,
    first_ptr, length_ptr, query_stride, key_stride, value_stride, heads, rows, queries, scale,
    threshold, rescale, WIDTH: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One head of one row."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    query_first = tl.load(query_first_ptr + row).to(tl.int64)
    query_length = tl.load(query_length_ptr + row)
    first, length = tl.load(first_ptr + row).to(tl.int64), tl.load(length_ptr + row)
    stride = heads * WIDTH
    # Most rows are much shorter than the longest: they take a quarter of its scores.
    if tl.maximum(query_length, length) <= SHORT:
        _forward(
            query_ptr, key_ptr, value_ptr, out_ptr, seed_ptr, row, head, query_first,
            query_length, first, length, query_stride, key_stride, value_stride, stride, scale,
            threshold, rescale, WIDTH, CAUSAL, DROPOUT, SHORT, SHORT, BLOCK_K,
        )  # fmt: skip
    elif BLOCK_Q + BLOCK_L > 2 * SHORT:
        _forward(
            query_ptr, key_ptr, value_ptr, out_ptr, seed_ptr, row, head, query_first,
            query_length, first, length, query_stride, key_stride, value_stride, stride, scale,
            threshold, rescale, WIDTH, CAUSAL, DROPOUT, BLOCK_Q, BLOCK_L, BLOCK_K,
        )  # fmt: skip
    end = query_first + query_length
    _clear(out_ptr, query_first_ptr, row, rows, end, queries, stride, head, WIDTH, BLOCK_K)


@triton.jit
def _backward(
    upstream_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr, by_value_ptr, seed_ptr,
    row, head, query_first, query_length, first, length, query_stride, key_stride, value_stride,
    stride, by_query_stride, by_key_stride, scale, threshold, rescale, WIDTH: tl.constexpr,
    CAUSAL: tl.constexpr, DROPOUT: tl.constexpr, Q: tl.constexpr, L: tl.constexpr,
    K: tl.constexpr,
):  # fmt: skip
    query = _load(query_ptr, query_first, query_length, query_stride, head, WIDTH, Q, K)
    key = _load(key_ptr, first, length, key_stride, head, WIDTH, L, K)
    value = _load(value_ptr, first, length, value_stride, head, WIDTH, L, K)
    upstream = _load(upstream_ptr, query_first, query_length, stride, head, WIDTH, Q, K)
    weights = _weights(query, key, length, scale, CAUSAL)
    by_weights = tl.dot(upstream, tl.trans(value), input_precision="ieee")
    dropped = weights
    if DROPOUT:
        kept = _kept(tl.load(seed_ptr), row, head, threshold, Q, L)
        dropped = tl.where(kept, weights * rescale, 0.0)
        by_weights = tl.where(kept, by_weights * rescale, 0.0)
    by_value = tl.dot(tl.trans(dropped.to(value.dtype)), upstream, input_precision="ieee")
    _store(by_value_ptr, by_value, first, length, by_key_stride, head, WIDTH)
    by_scores = weights * (by_weights - tl.sum(by_weights * weights, 1)[:, None]) * scale
    by_scores = by_scores.to(value.dtype)
    by_query = tl.dot(by_scores, key, input_precision="ieee")
    _store(by_query_ptr, by_query, query_first, query_length, by_query_stride, head, WIDTH)
    by_key = tl.dot(tl.trans(by_scores), query, input_precision="ieee")
    _store(by_key_ptr, by_key, first, length, by_key_stride, head, WIDTH)


@triton.jit(do_not_specialize=["rows", "queries", "tokens", "threshold"])
def attention_rows_backward_kernel(
    upstream_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr, by_value_ptr, seed_ptr,
    query_first_ptr, query_length_ptr, first_ptr, length_ptr, query_stride, key_stride,
    value_stride, by_query_stride, by_key_stride, heads, rows, queries, tokens, scale, threshold,
    rescale, WIDTH: tl.constexpr, CAUSAL: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """All gradients of one head of one row."""
    row, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    query_first = tl.load(query_first_ptr + row).to(tl.int64)
    query_length = tl.load(query_length_ptr + row)
    first, length = tl.load(first_ptr + row).to(tl.int64), tl.load(length_ptr + row)
    stride = heads * WIDTH
    if tl.maximum(query_length, length) <= SHORT:
        _backward(
            upstream_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr, by_value_ptr,
            seed_ptr, row, head, query_first, query_length, first, length, query_stride,
            key_stride, value_stride, stride, by_query_stride, by_key_stride, scale, threshold,
            rescale, WIDTH, CAUSAL, DROPOUT, SHORT, SHORT, BLOCK_K,
        )  # fmt: skip
    elif BLOCK_Q + BLOCK_L > 2 * SHORT:
        _backward(
            upstream_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr, by_value_ptr,
            seed_ptr, row, head, query_first, query_length, first, length, query_stride,
            key_stride, value_stride, stride, by_query_stride, by_key_stride, scale, threshold,
            rescale, WIDTH, CAUSAL, DROPOUT, BLOCK_Q, BLOCK_L, BLOCK_K,
        )  # fmt: skip
    query_end, end = query_first + query_length, first + length
    _clear(
        by_query_ptr, query_first_ptr, row, rows, query_end, queries, by_query_stride, head, WIDTH,
        BLOCK_K,
    )  # fmt: skip
    _clear(by_key_ptr, first_ptr, row, rows, end, tokens, by_key_stride, head, WIDTH, BLOCK_K)
    _clear(by_value_ptr, first_ptr, row, rows, end, tokens, by_key_stride, head, WIDTH, BLOCK_K)


def tiles(longest: tuple[int, int], width: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of a launch of either kernel."""
    query, key = (max(16, triton.next_power_of_2(length)) for length in longest)
    # Few warps: many small programs share a processor and wait for memory in turns.
    warps = max(query, key) // (8 if dtype == torch.float32 else 16)
    blocks = {"BLOCK_Q": query, "BLOCK_L": key, "BLOCK_K": max(16, triton.next_power_of_2(width))}
    return blocks | {"WIDTH": width, "num_warps": warps}


def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: tuple[torch.Tensor, ...],
    seed: torch.Tensor | None,
    **settings: Any,
) -> torch.Tensor:
    """As `attention_rows`, with a seed on the device, int64 of which the first is read,
    where there is dropout."""
    query, key, value = _dense(query), _dense(key), _dense(value)
    out = torch.empty(query.shape, device=query.device, dtype=query.dtype)
    count, heads = len(rows[0]), query.shape[1]
    if not count:
        return out.zero_()
    numbers, constants = _settings(query, rows, seed, **settings)
    attention_rows_kernel[(count * heads,)](
        query,
        key,
        value,
        out,
        numbers.pop("seed"),
        *rows,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        heads,
        count,
        len(query),
        **numbers,
        **constants,
    )
    return out


def backward(
    upstream: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    rows: tuple[torch.Tensor, ...],
    seed: torch.Tensor | None,
    **settings: Any,
) -> list[torch.Tensor]:
    """Gradients of query, key and value, from what `forward` got."""
    query, key, value = _dense(query), _dense(key), _dense(value)
    gradients = _gradients(query, key)
    count, heads = len(rows[0]), query.shape[1]
    if not count:
        return [gradient.zero_() for gradient in gradients]
    numbers, constants = _settings(query, rows, seed, **settings)
    attention_rows_backward_kernel[(count * heads,)](
        upstream.contiguous(),
        query,
        key,
        value,
        *gradients,
        numbers.pop("seed"),
        *rows,
        *(tensor.stride(0) for tensor in (query, key, value, *gradients[:2])),
        heads,
        count,
        len(query),
        len(key),
        **numbers,
        **constants,
    )
    return gradients


def _gradients(query: torch.Tensor, key: torch.Tensor) -> list[torch.Tensor]:
    """Room for those of query, key and value, side by side as one product that makes all three
    reads them; where there are other queries than keys, those of key and value."""
    where = {"device": key.device, "dtype": key.dtype}
    if len(query) == len(key):
        return [*torch.empty(len(key), 3, *key.shape[1:], **where).unbind(1)]
    pair = torch.empty(len(key), 2, *key.shape[1:], **where).unbind(1)
    return [torch.empty(query.shape, **where), *pair]


def _dense(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens may lie apart, heads and their columns may not."""
    dense = tokens.stride(2) == 1 and tokens.stride(1) == tokens.shape[2]
    return tokens if dense else tokens.contiguous()


def _settings(
    query: torch.Tensor,
    rows: tuple[torch.Tensor, ...],
    seed: torch.Tensor | None,
    *,
    longest: tuple[int, int],
    causal: bool,
    dropout: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers and constants of a launch; a weight is dropped where 31 random bits are fewer than
    the threshold."""
    numbers = {
        "seed": rows[0] if seed is None else seed,
        "scale": query.shape[2] ** -0.5,
        "threshold": int(dropout * 2**31),
        "rescale": 1 / (1 - dropout),
    }
    flags = {"CAUSAL": causal, "DROPOUT": dropout > 0}
    return numbers, tiles(longest, query.shape[2], query.dtype) | flags
