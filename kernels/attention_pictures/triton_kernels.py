"""Cross-attention of packed queries to pictures in Triton, a program for a head of one picture.

Queries lie where they are: a program reads and writes those of its picture by their numbers, tile
by tile, so nothing is padded, copied or gathered, and a key's gradients are added up by one
program in one order. The way back (`triton_backward`) computes the weights again. Logarithms of
the weights' sums, what dropout draws and what it leaves stand in the order of the pictures.

Keys go by in whole tiles, without masks, and the few behind those in a tile of their own: of
pictures of 16 x 16 patches it holds 1 to 16, so 197 keys cost 208 and not 256.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.attention_joined.triton_kernels import load_rows

# Stands for minus infinity: a key that is not there.
UNSEEN = tl.constexpr(-1e30)
LOG2_E = 1.4426950408889634
# Of a launch: queries and keys of a tile, warps, and reads of keys at once. 64 queries are rows
# of what four warps multiply together.
TILES = {
    torch.float32: (32, 32, 4, 3),
    torch.float16: (64, 64, 4, 2),
    torch.bfloat16: (64, 64, 4, 2),
}
SMALLEST = 16
# Queries behind whole tiles that are a tile of their own: a picture's often are few more than 64,
# and in the last layer a few.
MORE = 16


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
def kept(first, second, block, N: tl.constexpr, threshold) -> tl.tensor:
    """Which weights [queries, N] of the keys from `block` on, a multiple of 32, dropout keeps: of a
    query's two random words [queries], mixed with a key's number.

    Philox for each weight would take longer than the products do. The mixing is that of lowbias32
    (Wellons 2018, nullprogram.com/blog/2018/07/31), its second half under the second word; the
    high bits decide, so its last shift is left out. It is done once for four keys, 8 apart, which
    one thread holds; its last product gives each a number of its own. The factors are that of
    lowbias32 times 1, a, a^2 and a^3, a = 0xCF019D85 of the spectrally good (Steele and Vigna 2021,
    arXiv:2001.05304): all 32-bit numbers times those fill the space of four dimensions evenly, so
    each weight is kept by 32 bits, and the four are as good as independent.
    """
    place = tl.arange(0, N)
    shared, turn = block + (place & ~24), (place & 24) // 8
    x = first[:, None] ^ (shared.to(tl.uint32) * 0x9E3779B9)[None, :]
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = x ^ (x >> 15) ^ second[:, None]
    even = tl.where(turn == 0, 0x846CA68B, 0xCA303093)
    odd = tl.where(turn == 1, 0x7A20C537, 0xA666635F)
    x *= tl.where(turn % 2 == 0, even, odd).to(tl.uint32)[None, :]
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


@triton.jit
def attend(
    query, key, value, first, second, block, top, total, left, context, scale, threshold,
    KEYS: tl.constexpr, WHOLE: tl.constexpr, DROPOUT: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """`top`, `total`, `left` and `context` with a tile of keys more: the largest score of each
    query, sums of weights and of those that dropout leaves, and of values by the latter."""
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    if not WHOLE:
        seen = block + tl.arange(0, key.shape[0]) < KEYS
        scores = tl.where(seen[None, :], scores, UNSEEN)
    # Scaled after the maximum: one instruction with the difference.
    higher = tl.maximum(top, tl.max(scores, 1) * scale)
    weights = tl.exp2(scores * scale - higher[:, None])
    fading = tl.exp2(top - higher)
    total = total * fading + tl.sum(weights, 1)
    if DROPOUT:
        weights = tl.where(kept(first, second, block, key.shape[0], threshold), weights, 0.0)
        left = left * fading + tl.sum(weights, 1)
    context *= fading[:, None]
    context = tl.dot(weights.to(value.dtype), value, context, input_precision="ieee")
    return higher, total, left, context


@triton.jit
def pass_keys(
    query_ptr, key_ptr, value_ptr, out_ptr, log_sum_ptr, word_ptr, order_ptr, query_stride,
    key_stride, start, end, head, heads, tokens, scale, threshold, rescale, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, REST: tl.constexpr,
) -> None:  # fmt: skip
    """What a tile of queries sees."""
    WHOLE: tl.constexpr = KEYS // BLOCK_N * BLOCK_N
    place = start + tl.arange(0, BLOCK_Q)
    present = place < end
    token = tl.load(order_ptr + place, present, 0)
    query = load_tile(query_ptr, token, present, query_stride, head, WIDTH, BLOCK_K)
    first, second = place, place
    if DROPOUT:
        first, second = words(word_ptr, head, tokens, heads, place, present)
    if REST:
        # Asked for before all others: nothing waits for them in the end.
        few_keys = load_rows(key_ptr, WHOLE, key_stride, KEYS, REST, False, WIDTH, BLOCK_K)
        few_values = load_rows(value_ptr, WHOLE, key_stride, KEYS, REST, False, WIDTH, BLOCK_K)
    top = tl.full((BLOCK_Q,), UNSEEN, tl.float32)
    total = tl.zeros((BLOCK_Q,), tl.float32)
    left = tl.zeros((BLOCK_Q,), tl.float32)
    context = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for block in tl.range(0, WHOLE, BLOCK_N, disable_licm=True):
        key = load_rows(key_ptr, block, key_stride, KEYS, BLOCK_N, True, WIDTH, BLOCK_K)
        value = load_rows(value_ptr, block, key_stride, KEYS, BLOCK_N, True, WIDTH, BLOCK_K)
        top, total, left, context = attend(
            query, key, value, first, second, block, top, total, left, context, scale, threshold,
            KEYS, True, DROPOUT,
        )  # fmt: skip
    if REST:
        top, total, left, context = attend(
            query, few_keys, few_values, first, second, WHOLE, top, total, left, context, scale,
            threshold, KEYS, False, DROPOUT,
        )  # fmt: skip
    share = rescale / total
    stride = heads * WIDTH
    store_tile(out_ptr, context * share[:, None], token, present, stride, head, WIDTH)
    tl.store(log_sum_ptr + head * tokens + place, top + tl.log2(total), present)
    if DROPOUT:
        tl.store(log_sum_ptr + (heads + head) * tokens + place, left * share, present)


@triton.jit(do_not_specialize=["pictures", "tokens", "threshold"])
def attention_pictures_kernel(
    query_ptr, key_ptr, value_ptr, out_ptr, log_sum_ptr, word_ptr, order_ptr, starts_ptr,
    query_stride, picture_stride, key_stride, heads, pictures, tokens, scale, threshold, rescale,
    KEYS: tl.constexpr, WIDTH: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, REST: tl.constexpr, MORE: tl.constexpr,
):  # fmt: skip
    """One head of the queries of one picture; sums of weights as logarithms to base 2, and with
    dropout the sum of what it leaves of them."""
    picture, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(starts_ptr + picture).to(tl.int32)
    end = tl.load(starts_ptr + picture + 1).to(tl.int32)
    key_ptr += picture.to(tl.int64) * picture_stride + head * WIDTH
    value_ptr += picture.to(tl.int64) * picture_stride + head * WIDTH
    tiles = tl.cdiv(tl.maximum(end - begin - MORE, 0), BLOCK_Q)
    behind = begin + tiles * BLOCK_Q
    for start in tl.range(begin, behind, BLOCK_Q, num_stages=1):
        pass_keys(
            query_ptr, key_ptr, value_ptr, out_ptr, log_sum_ptr, word_ptr, order_ptr, query_stride,
            key_stride, start, end, head, heads, tokens, scale, threshold, rescale, KEYS, WIDTH,
            DROPOUT, BLOCK_Q, BLOCK_N, BLOCK_K, REST,
        )  # fmt: skip
    if behind < end:
        pass_keys(
            query_ptr, key_ptr, value_ptr, out_ptr, log_sum_ptr, word_ptr, order_ptr, query_stride,
            key_stride, behind, end, head, heads, tokens, scale, threshold, rescale, KEYS, WIDTH,
            DROPOUT, MORE, BLOCK_N, BLOCK_K, REST,
        )  # fmt: skip
    clear(
        out_ptr, order_ptr, starts_ptr, picture, pictures, tokens, heads * WIDTH, head, WIDTH,
        BLOCK_Q, BLOCK_K,
    )  # fmt: skip


def constants(keys: int, width: int, tiles: tuple[int, int, int, int]) -> dict[str, int]:
    """Of a launch with tiles of so many queries and keys, warps, and reads at once."""
    queries, block, warps, stages = tiles
    rest = keys % block
    found = {"KEYS": keys, "WIDTH": width, "BLOCK_Q": queries, "BLOCK_N": block}
    found["BLOCK_K"] = max(SMALLEST, triton.next_power_of_2(width))
    found["REST"] = max(SMALLEST, triton.next_power_of_2(rest)) if rest else 0
    return found | {"num_warps": warps, "num_stages": stages}


def tiles(keys: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of a launch."""
    return constants(keys, width, TILES[dtype]) | {"MORE": MORE}


def dense(heads: torch.Tensor) -> torch.Tensor:
    """Tokens may lie apart, heads and their columns may not."""
    close = heads.stride(-1) == 1 and heads.stride(-2) == heads.shape[-1]
    return heads if close else heads.contiguous()


def laid(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As the kernels take them: values lie as keys do, which two parts of one product do."""
    key, value = dense(key), dense(value)
    if key.stride() != value.stride():
        key, value = key.contiguous(), value.contiguous()
    return dense(query), key, value


def numbers(query: torch.Tensor, key: torch.Tensor, dropout: float) -> dict[str, Any]:
    """Strides, sizes and numbers of a launch; a weight is dropped where 32 random bits, read with
    a sign, are less than the threshold."""
    return {
        "query_stride": query.stride(0),
        "picture_stride": key.stride(0),
        "key_stride": key.stride(1),
        "heads": query.shape[1],
        "pictures": len(key),
        "tokens": len(query),
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
    query, key, value = laid(query, key, value)
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
        **numbers(query, key, dropout),
        **tiles(key.shape[1], query.shape[2], query.dtype),
    )
    return out, log_sum
