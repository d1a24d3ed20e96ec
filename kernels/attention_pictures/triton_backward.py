"""Gradients of attention to pictures in Triton: of queries, then of keys and values."""

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
    tiles,
    words,
)

# Of the kernel that takes all queries of a picture: they seldom fill more than a tile of 64.
KEY_TILES = {torch.float32: (32, 32), torch.float16: (32, 64), torch.bfloat16: (32, 64)}


@triton.jit(do_not_specialize=["pictures", "tokens", "keys", "threshold"])
def attention_pictures_query_kernel(
    upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, agreed_ptr, log_sum_ptr,
    word_ptr, order_ptr, starts_ptr, query_stride, key_picture_stride, key_stride,
    value_picture_stride, value_stride, heads, pictures, tokens, keys, scale, threshold, rescale,
    by_scale, WIDTH: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of one head of the queries of one picture, and upstream . out of each, which is
    the mean of the gradients of its weights (Dao et al. 2022, arXiv:2205.14135, appendix B)."""
    picture, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(starts_ptr + picture).to(tl.int32)
    end = tl.load(starts_ptr + picture + 1).to(tl.int32)
    key_ptr += picture.to(tl.int64) * key_picture_stride
    value_ptr += picture.to(tl.int64) * value_picture_stride
    stride = heads * WIDTH
    for start in range(begin, end, BLOCK_Q):
        place = start + tl.arange(0, BLOCK_Q)
        present = place < end
        token = tl.load(order_ptr + place, present, 0)
        query = load_tile(query_ptr, token, present, query_stride, head, WIDTH, BLOCK_K)
        upstream = load_tile(upstream_ptr, token, present, stride, head, WIDTH, BLOCK_K)
        out = load_tile(out_ptr, token, present, stride, head, WIDTH, BLOCK_K)
        agreed = tl.sum(upstream.to(tl.float32) * out.to(tl.float32), 1)
        tl.store(agreed_ptr + head * tokens + place, agreed, present)
        log_sum = tl.load(log_sum_ptr + head * tokens + place, present, 0.0)
        if DROPOUT:
            first, second = words(word_ptr, head, tokens, heads, place, present)
        by_query = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
        for block in range(0, keys, BLOCK_N):
            number = block + tl.arange(0, BLOCK_N)
            seen = number < keys
            key = load_tile(key_ptr, number, seen, key_stride, head, WIDTH, BLOCK_K)
            value = load_tile(value_ptr, number, seen, value_stride, head, WIDTH, BLOCK_K)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee") * scale
            # No weight is above 1 but for rounding, or of a key that is not there: that adds 0, as
            # the key is 0, but might be infinite.
            weights = tl.exp2(tl.minimum(scores - log_sum[:, None], 0.0))
            by_weights = tl.dot(upstream, tl.trans(value), input_precision="ieee")
            if DROPOUT:
                stays = kept(first[:, None], second[:, None], number[None, :], threshold)
                by_weights = tl.where(stays, by_weights * rescale, 0.0)
            by_scores = (weights * (by_weights - agreed[:, None])).to(key.dtype)
            by_query += tl.dot(by_scores, key, input_precision="ieee")
        store_tile(by_query_ptr, by_query * by_scale, token, present, stride, head, WIDTH)
    clear(
        by_query_ptr, order_ptr, starts_ptr, picture, pictures, tokens, stride, head, WIDTH,
        BLOCK_Q, BLOCK_K,
    )  # fmt: skip


@triton.jit(do_not_specialize=["tokens", "keys", "threshold"])
def attention_pictures_key_kernel(
    upstream_ptr, query_ptr, key_ptr, value_ptr, by_key_ptr, by_value_ptr, agreed_ptr,
    log_sum_ptr, word_ptr, order_ptr, starts_ptr, query_stride, key_picture_stride, key_stride,
    value_picture_stride, value_stride, heads, tokens, keys, scale, threshold, rescale, by_scale,
    WIDTH: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Gradients of one head of some keys and values of one picture, from all its queries.

    Tiles are [keys, queries]: weights are where the products want them, and nothing is turned. A
    key's gradient and its value's stand side by side, as products that make both read them.
    """
    blocks = tl.cdiv(keys, BLOCK_N)
    block, head = tl.program_id(0) % blocks, tl.program_id(0) // blocks % heads
    picture = tl.program_id(0) // blocks // heads
    begin = tl.load(starts_ptr + picture).to(tl.int32)
    end = tl.load(starts_ptr + picture + 1).to(tl.int32)
    key_ptr += picture.to(tl.int64) * key_picture_stride
    value_ptr += picture.to(tl.int64) * value_picture_stride
    stride = heads * WIDTH
    number = block * BLOCK_N + tl.arange(0, BLOCK_N)
    seen = number < keys
    key = load_tile(key_ptr, number, seen, key_stride, head, WIDTH, BLOCK_K)
    value = load_tile(value_ptr, number, seen, value_stride, head, WIDTH, BLOCK_K)
    by_key = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    by_value = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(begin, end, BLOCK_Q):
        place = start + tl.arange(0, BLOCK_Q)
        present = place < end
        token = tl.load(order_ptr + place, present, 0)
        query = load_tile(query_ptr, token, present, query_stride, head, WIDTH, BLOCK_K)
        upstream = load_tile(upstream_ptr, token, present, stride, head, WIDTH, BLOCK_K)
        # A query that is not there has finite weights and no gradient: it adds 0. A key that is
        # not there may weigh infinitely much, but its row is its own and is not written.
        log_sum = tl.load(log_sum_ptr + head * tokens + place, present, 0.0)
        agreed = tl.load(agreed_ptr + head * tokens + place, present, 0.0)
        scores = tl.dot(key, tl.trans(query), input_precision="ieee") * scale
        weights = tl.exp2(scores - log_sum[None, :])
        by_weights = tl.dot(value, tl.trans(upstream), input_precision="ieee")
        dropped = weights
        if DROPOUT:
            first, second = words(word_ptr, head, tokens, heads, place, present)
            stays = kept(first[None, :], second[None, :], number[:, None], threshold)
            dropped = tl.where(stays, weights, 0.0)
            by_weights = tl.where(stays, by_weights * rescale, 0.0)
        by_value += tl.dot(dropped.to(value.dtype), upstream, input_precision="ieee")
        by_scores = (weights * (by_weights - agreed[None, :])).to(query.dtype)
        by_key += tl.dot(by_scores, query, input_precision="ieee")
    by_key_ptr += picture.to(tl.int64) * keys * 2 * stride
    by_value_ptr += picture.to(tl.int64) * keys * 2 * stride
    store_tile(by_key_ptr, by_key * by_scale, number, seen, 2 * stride, head, WIDTH)
    store_tile(by_value_ptr, by_value * rescale, number, seen, 2 * stride, head, WIDTH)


def key_tiles(width: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of a launch of the kernel that takes all queries of a picture."""
    queries, keys = KEY_TILES[dtype]
    return tiles(width, dtype) | {"BLOCK_Q": queries, "BLOCK_N": keys}


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
) -> list[torch.Tensor]:
    """Gradients of query, key and value, from what `forward` got and gave."""
    query, key, value = dense(query), dense(key), dense(value)
    by_query = torch.empty(query.shape, device=query.device, dtype=query.dtype)
    side_by_side = (*key.shape[:2], 2, *key.shape[2:])
    by_pictures = torch.empty(side_by_side, device=key.device, dtype=key.dtype).unbind(2)
    gradients = [by_query, *by_pictures]
    if not len(key):
        return [gradient.zero_() for gradient in gradients]
    # One and the same for both kernels: the second reads what the first has found.
    found = (torch.empty_like(log_sum), log_sum, order if drawn is None else drawn, order, starts)
    upstream, inputs = upstream.contiguous(), (query, key, value)
    settings = numbers(*inputs, dropout)
    settings["by_scale"] = settings["scale"] / LOG2_E
    programs, shape = len(key) * query.shape[1], (query.shape[2], query.dtype)
    launch = attention_pictures_query_kernel[(programs,)]
    launch(upstream, out, *inputs, by_query, *found, **settings, **tiles(*shape))
    del settings["pictures"]
    constants = key_tiles(*shape)
    blocks = triton.cdiv(key.shape[1], constants["BLOCK_N"])
    launch = attention_pictures_key_kernel[(programs * blocks,)]
    launch(upstream, *inputs, *by_pictures, *found, **settings, **constants)
    return gradients
