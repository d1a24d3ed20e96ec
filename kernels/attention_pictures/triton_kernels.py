"""Attention of packed queries to pictures in Triton, a program for a head of one picture.

Queries lie where they are: a program reads and writes those of its picture by their numbers, tile
by tile, so nothing is padded, copied or gathered, and a key's gradients are added up by one
program in one order. The way back (`triton_backward`) computes the weights again. Logarithms of
the weights' sums, what dropout draws and what it leaves stand in the order of the pictures.
"""

from typing import Any

import torch
import triton
import triton.language as tl

# Stands for minus infinity: a key that is not there.
UNSEEN = tl.constexpr(-1e30)
LOG2_E = 1.4426950408889634
# Queries and keys of a tile: as many programs as there are registers for hide how long memory
# takes, and 197 keys fill blocks of 32 better than larger ones.
TILES = {torch.float32: (32, 32), torch.float16: (64, 32), torch.bfloat16: (64, 32)}
LAUNCH = {"num_warps": 4, "num_stages": 3}


@triton.jit
def load_tile(ptr, row, present, stride, head, WIDTH: tl.constexpr, K: tl.constexpr) -> tl.tensor:
    """A head [rows, K] of rows anywhere, zeros where a row is not present."""
    k = tl.arange(0, K)
    places = row.to(tl.int64)[:, None] * stride + head * WIDTH + k[None, :]
    return tl.load(ptr + places, present[:, None] & (k < WIDTH)[None, :], 0.0)


@triton.jit
def store_tile(ptr, tile, row, present, stride, head, WIDTH: tl.constexpr) -> None:
    """A head [rows, K] to rows anywhere."""
    k = tl.arange(0, tile.shape[1])
    places = row.to(tl.int64)[:, None] * stride + head * WIDTH + k[None, :]
    tl.store(ptr + places, tile.to(ptr.dtype.element_ty), present[:, None] & (k < WIDTH)[None, :])


@triton.jit
def kept(first, second, key, threshold) -> tl.tensor:
    """Which weights dropout keeps: of a query's two random words, mixed with a key's number.

    Philox for each weight would take longer than the products do. The mixing is that of lowbias32
    (Wellons 2018, nullprogram.com/blog/2018/07/31), its second half under the second word; the
    high bits decide, so its last shift is left out.
    """
    x = first ^ (key.to(tl.uint32) * 0x9E3779B9)
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15) ^ second) * 0x846CA68B
    return x.to(tl.int32, bitcast=True) >= threshold


@triton.jit
def words(word_ptr, head, tokens, heads, place, present) -> tuple[tl.tensor, tl.tensor]:
    """The two random words of queries."""
    first = tl.load(word_ptr + head * tokens + place, present, 0)
    second = tl.load(word_ptr + (heads + head) * tokens + place, present, 0)
    return first.to(tl.uint32, bitcast=True), second.to(tl.uint32, bitcast=True)


@triton.jit
def clear(
    ptr, order_ptr, starts_ptr, picture, pictures, tokens, stride, head, WIDTH: tl.constexpr,
    Q: tl.constexpr, K: tl.constexpr,
) -> None:  # fmt: skip
    """Zeros for a picture's share of the tokens that look at none."""
    spare = tl.load(starts_ptr + pictures).to(tl.int32)
    for start in range(spare + picture * Q, tokens, pictures * Q):
        place = start + tl.arange(0, Q)
        present = place < tokens
        token = tl.load(order_ptr + place, present, 0)
        store_tile(ptr, tl.zeros((Q, K), tl.float32), token, present, stride, head, WIDTH)


@triton.jit(do_not_specialize=["pictures", "tokens", "keys", "threshold"])
def attention_pictures_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, log_sum_ptr, word_ptr, order_ptr, starts_ptr,
    query_stride, key_picture_stride, key_stride, value_picture_stride, value_stride, heads,
    pictures, tokens, keys, scale, threshold, rescale, WIDTH: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One head of the queries of one picture; sums of weights as logarithms to base 2, and with
    dropout the sum of what it leaves of them."""
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
        if DROPOUT:
            first, second = words(word_ptr, head, tokens, heads, place, present)
        top = tl.full((BLOCK_Q,), UNSEEN, tl.float32)
        total = tl.zeros((BLOCK_Q,), tl.float32)
        left = tl.zeros((BLOCK_Q,), tl.float32)
        context = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
        for block in range(0, keys, BLOCK_N):
            number = block + tl.arange(0, BLOCK_N)
            seen = number < keys
            key = load_tile(key_ptr, number, seen, key_stride, head, WIDTH, BLOCK_K)
            value = load_tile(value_ptr, number, seen, value_stride, head, WIDTH, BLOCK_K)
            scores = tl.dot(query, tl.trans(key), input_precision="ieee")
            scores = tl.where(seen[None, :], scores, UNSEEN)
            # Scaled after the maximum: one instruction with the difference.
            higher = tl.maximum(top, tl.max(scores, 1) * scale)
            weights = tl.exp2(scores * scale - higher[:, None])
            fading = tl.exp2(top - higher)
            total = total * fading + tl.sum(weights, 1)
            if DROPOUT:
                stays = kept(first[:, None], second[:, None], number[None, :], threshold)
                weights = tl.where(stays, weights, 0.0)
                left = left * fading + tl.sum(weights, 1)
            added = tl.dot(weights.to(value.dtype), value, input_precision="ieee")
            context = context * fading[:, None] + added
            top = higher
        context = context * (rescale / total)[:, None]
        store_tile(out_ptr, context, token, present, stride, head, WIDTH)
        tl.store(log_sum_ptr + head * tokens + place, top + tl.log2(total), present)
        if DROPOUT:
            left_ptr = log_sum_ptr + heads * tokens
            tl.store(left_ptr + head * tokens + place, left * (rescale / total), present)
    clear(
        out_ptr, order_ptr, starts_ptr, picture, pictures, tokens, stride, head, WIDTH, BLOCK_Q,
        BLOCK_K,
    )  # fmt: skip


def tiles(width: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of a launch of the kernels that take all keys of a picture."""
    queries, keys = TILES[dtype]
    blocks = {"BLOCK_Q": queries, "BLOCK_N": keys}
    blocks["BLOCK_K"] = max(16, triton.next_power_of_2(width))
    return blocks | {"WIDTH": width} | LAUNCH


def dense(heads: torch.Tensor) -> torch.Tensor:
    """Tokens may lie apart, heads and their columns may not."""
    close = heads.stride(-1) == 1 and heads.stride(-2) == heads.shape[-1]
    return heads if close else heads.contiguous()


def numbers(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float
) -> dict[str, Any]:
    """Strides, sizes and numbers of a launch; a weight is dropped where 32 random bits, read with
    a sign, are less than the threshold."""
    return {
        "query_stride": query.stride(0),
        "key_picture_stride": key.stride(0),
        "key_stride": key.stride(1),
        "value_picture_stride": value.stride(0),
        "value_stride": value.stride(1),
        "heads": query.shape[1],
        "pictures": len(key),
        "tokens": len(query),
        "keys": key.shape[1],
        "scale": query.shape[2] ** -0.5 * LOG2_E,
        "threshold": int(dropout * 2**32) - 2**31,
        "rescale": 1 / (1 - dropout),
        "DROPOUT": dropout > 0,
    }


def forward(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    order: torch.Tensor,
    starts: torch.Tensor,
    drawn: torch.Tensor | None,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `attention_pictures`, with `drawn` [2, H, T] int32 where there is dropout.

    Returns:
        [T, H, K], and [1, H, T] float32 in the order of pictures, undefined for tokens without a
        picture: logarithms of the sums of weights; with dropout [2, H, T], behind them the sums of
        what it left of the weights.
    """
    query, key, value = dense(query), dense(key), dense(value)
    out = torch.empty(query.shape, device=query.device, dtype=query.dtype)
    shape = (2 if dropout else 1, query.shape[1], len(query))
    log_sum = torch.empty(shape, device=query.device, dtype=torch.float32)
    if not len(key):
        return out.zero_(), log_sum
    attention_pictures_kernel[(len(key) * query.shape[1],)](
        query,
        key,
        value,
        out,
        log_sum,
        order if drawn is None else drawn,
        order,
        starts,
        **numbers(query, key, value, dropout),
        **tiles(query.shape[2], query.dtype),
    )
    return out, log_sum
