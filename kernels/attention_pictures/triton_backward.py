"""Gradients of attention to pictures in Triton, a program for a head of one picture.

A program holds the queries that look at its picture while keys and values go by, so each number is
read once, weights are computed once, and nothing is added up by two programs. Queries seldom are
more than a tile; where they are, gradients of keys and values are added up in memory.

Sums over keys are known without those: of values' gradients that of upstream ones, each times what
dropout left of its query's weights, and of keys' 0, as one vector added to all changes no weight.
"""

import torch
import triton
import triton.language as tl

from kernels.attention_pictures.triton_kernels import (
    LOG2_E,
    clear,
    dense,
    kept,
    load_tile,
    numbers,
    store_tile,
    words,
)
from kernels.linear import triton_kernels as linear_kernels

# Queries and keys of a tile, and reads of keys at once: queries of a picture seldom are more than
# 64, and 197 keys fill blocks of 32 better than larger ones.
TILES = {torch.float32: (16, 32, 2), torch.float16: (64, 32, 3), torch.bfloat16: (64, 32, 3)}
WARPS = 4


@triton.jit
def add_up(ptr, so_far_ptr, tile, places, mask, is_first, is_last) -> None:
    """Add a tile to those so far, which are there unless this is the first; the last is written
    where it belongs."""
    if not is_first:
        tile += tl.load(so_far_ptr + places, mask, 0.0)
    if is_last:
        tl.store(ptr + places, tile.to(ptr.dtype.element_ty), mask)
    else:
        tl.store(so_far_ptr + places, tile, mask)


@triton.jit
def signed_weights(
    key, query, log_sum, first, second, number, scale, threshold, DROPOUT: tl.constexpr
) -> tl.tensor:
    """Weights [queries, keys], below zero where dropout takes them: a tile of registers for both.

    A query that is not there has finite weights and no gradient: it adds 0. No weight is above 1
    but for rounding, or of a key that is not there: that adds 0, but might be infinite.
    """
    scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
    weights = tl.exp2(tl.minimum(scores - log_sum[:, None], 0.0))
    if DROPOUT:
        stays = kept(first[:, None], second[:, None], number[None, :], threshold)
        weights = tl.where(stays, weights, -weights)
    return weights


@triton.jit
def score_gradients(signed, value, upstream, agreed, rescale) -> tl.tensor:
    """Of the scores of `signed_weights`."""
    by_weights = tl.dot(upstream, tl.trans(value), input_precision="ieee") * rescale
    return tl.maximum(signed, 0.0) * by_weights - tl.abs(signed) * agreed[:, None]


@triton.jit(do_not_specialize=["pictures", "tokens", "keys", "threshold"])
def attention_pictures_backward_kernel(
    upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr, by_value_ptr,
    so_far_ptr, sums_ptr, log_sum_ptr, word_ptr, order_ptr, starts_ptr, query_stride,
    key_picture_stride, key_stride, value_picture_stride, value_stride, heads, pictures, tokens,
    keys, scale, threshold, rescale, by_scale, HAS_COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of one head of the queries, keys and values of one picture; with columns, sums of
    the last two over its keys too."""
    picture, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(starts_ptr + picture).to(tl.int32)
    end = tl.load(starts_ptr + picture + 1).to(tl.int32)
    key_ptr += picture.to(tl.int64) * key_picture_stride + head * WIDTH
    value_ptr += picture.to(tl.int64) * value_picture_stride + head * WIDTH
    stride, k = heads * WIDTH, tl.arange(0, BLOCK_K)
    # A key's gradient and its value's stand side by side, as products that make both read them.
    own = picture.to(tl.int64) * keys * 2 * stride + head * WIDTH
    by_key_ptr += own
    by_value_ptr += own
    so_far_ptr += own
    sums_ptr += picture * 2 * stride + head * WIDTH
    # Once at least: what nobody looks at has gradients of zero.
    for start in tl.range(begin, tl.maximum(end, begin + 1), BLOCK_Q, num_stages=1):
        place = start + tl.arange(0, BLOCK_Q)
        present = place < end
        token = tl.load(order_ptr + place, present, 0)
        query = load_tile(query_ptr, token, present, query_stride, head, WIDTH, BLOCK_K)
        upstream = load_tile(upstream_ptr, token, present, stride, head, WIDTH, BLOCK_K)
        out = load_tile(out_ptr, token, present, stride, head, WIDTH, BLOCK_K)
        # The mean of the gradients of a query's weights (Dao et al. 2022, arXiv:2205.14135,
        # appendix B).
        agreed = tl.sum(upstream.to(tl.float32) * out.to(tl.float32), 1)
        log_sum = tl.load(log_sum_ptr + head * tokens + place, present, 0.0)
        first, second = place, place
        if DROPOUT:
            first, second = words(word_ptr, head, tokens, heads, place, present)
        is_first, is_last = start == begin, start + BLOCK_Q >= end
        by_query = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
        for block in tl.range(0, keys, BLOCK_N, disable_licm=True):
            # Within a picture 32 bits are enough, and half as many registers.
            number = block + tl.arange(0, BLOCK_N)
            seen = (number < keys)[:, None] & (k < WIDTH)[None, :]
            key = tl.load(key_ptr + number[:, None] * key_stride + k[None, :], seen, 0.0)
            value = tl.load(value_ptr + number[:, None] * value_stride + k[None, :], seen, 0.0)
            signed = signed_weights(
                key, query, log_sum, first, second, number, scale, threshold, DROPOUT
            )
            dropped = tl.maximum(signed, 0.0).to(value.dtype)
            by_value = tl.dot(tl.trans(dropped), upstream, input_precision="ieee") * rescale
            places = number[:, None] * (2 * stride) + k[None, :]
            add_up(by_value_ptr, so_far_ptr + stride, by_value, places, seen, is_first, is_last)
            by_scores = score_gradients(signed, value, upstream, agreed, rescale).to(key.dtype)
            by_key = tl.dot(tl.trans(by_scores), query, input_precision="ieee") * by_scale
            add_up(by_key_ptr, so_far_ptr, by_key, places, seen, is_first, is_last)
            by_query = tl.dot(by_scores, key, by_query, input_precision="ieee")
        store_tile(by_query_ptr, by_query * by_scale, token, present, stride, head, WIDTH)
        if HAS_COLUMNS:
            # Read again: it would take registers all the while.
            upstream = load_tile(upstream_ptr, token, present, stride, head, WIDTH, BLOCK_K)
            weighed = upstream.to(tl.float32)
            if DROPOUT:
                left = tl.load(log_sum_ptr + (heads + head) * tokens + place, present, 0.0)
                weighed *= left[:, None]
            sums = tl.sum(weighed, 0)
            add_up(sums_ptr + stride, sums_ptr + stride, sums, k, k < WIDTH, is_first, is_last)
            tl.store(sums_ptr + k, tl.zeros((BLOCK_K,), tl.float32), k < WIDTH)
        # One thread's sums so far are another's with the next queries.
        tl.debug_barrier()
    clear(
        by_query_ptr, order_ptr, starts_ptr, picture, pictures, tokens, stride, head, WIDTH,
        BLOCK_Q, BLOCK_K,
    )  # fmt: skip


def tiles(width: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of a launch."""
    queries, keys, stages = TILES[dtype]
    blocks = {"BLOCK_Q": queries, "BLOCK_N": keys}
    blocks["BLOCK_K"] = max(16, triton.next_power_of_2(width))
    return blocks | {"WIDTH": width, "num_warps": WARPS, "num_stages": stages}


def backward(
    upstream: torch.Tensor,
    out: torch.Tensor,
    log_sum: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    order: torch.Tensor,
    starts: torch.Tensor,
    drawn: torch.Tensor | None,
    dropout: float,
    *,
    with_columns: bool,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Gradients of query, key and value, from what `forward` got and gave; and if asked sums of the
    last two over all keys, [2 H K] float32."""
    query, key, value = dense(query), dense(key), dense(value)
    by_query = torch.empty(query.shape, device=query.device, dtype=query.dtype)
    side_by_side = (*key.shape[:2], 2, *key.shape[2:])
    by_pictures = torch.empty(side_by_side, device=key.device, dtype=key.dtype).unbind(2)
    gradients = [by_query, *by_pictures]
    if not len(key):
        return [gradient.zero_() for gradient in gradients], None
    so_far = torch.empty(side_by_side, device=key.device, dtype=torch.float32)
    sums = so_far
    if with_columns:
        columns = 2 * key.shape[2:].numel()
        sums = torch.empty(len(key), columns, device=key.device, dtype=torch.float32)
    settings = numbers(query, key, value, dropout)
    settings["by_scale"] = settings["scale"] / LOG2_E
    attention_pictures_backward_kernel[(len(key) * query.shape[1],)](
        upstream.contiguous(),
        out,
        query,
        key,
        value,
        *gradients,
        so_far,
        sums,
        log_sum,
        order if drawn is None else drawn,
        order,
        starts,
        **settings,
        HAS_COLUMNS=with_columns,
        **tiles(query.shape[2], query.dtype),
    )
    return gradients, linear_kernels.column_sum(sums) if with_columns else None
