"""Gradients of attention to pictures in Triton, a program for a head of one picture.

A program holds the queries that look at its picture while keys and values go by, so each number is
read once, weights are computed once, and nothing is added up by two programs. Where queries are
more than a tile, the program first makes their gradients tile by tile, and then those of keys and
values, of which it holds a tile while queries go by: weights are computed twice, and again nothing
is added up in memory.

Sums over keys are known without those: of values' gradients that of upstream ones, each times what
dropout left of its query's weights, and of keys' 0, as one vector added to all changes no weight.
"""

import torch
import triton
import triton.language as tl

from kernels.attention_joined.triton_kernels import load_rows
from kernels.attention_pictures.triton_kernels import (
    LOG2_E,
    clear,
    constants,
    laid,
    numbers,
)
from kernels.attention_pictures.triton_tiles import (
    load_queries,
    store_alone,
    store_keys,
    store_queries,
    store_sums,
    turned,
    weigh,
)
from kernels.linear import triton_kernels as linear_kernels

# Of a launch: queries and keys of a tile, warps, and reads of keys at once. 64 keys are rows of
# what four warps multiply together, as 64 queries are.
TILES = {
    torch.float32: (16, 32, 4, 2),
    torch.float16: (64, 64, 4, 3),
    torch.bfloat16: (64, 64, 4, 3),
}


@triton.jit
def pass_keys(
    upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr, log_sum_ptr,
    word_ptr, order_ptr, query_stride, key_stride, start, end, head, heads, tokens, scale,
    threshold, rescale, by_scale, ALONE: tl.constexpr, KEYS: tl.constexpr,
    WIDTH: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, REST: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of a tile of queries; of keys and values too, if those are alone."""
    WHOLE: tl.constexpr = KEYS // BLOCK_N * BLOCK_N
    stride = heads * WIDTH
    queries = load_queries(
        upstream_ptr, out_ptr, query_ptr, log_sum_ptr, word_ptr, order_ptr, query_stride, start,
        end, head, heads, tokens, rescale, WIDTH, DROPOUT, BLOCK_Q, BLOCK_K,
    )  # fmt: skip
    by_query = tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    if REST:
        # First: what only they need takes no registers later.
        few_keys = load_rows(key_ptr, WHOLE, key_stride, KEYS, REST, False, WIDTH, BLOCK_K)
        few_values = load_rows(value_ptr, WHOLE, key_stride, KEYS, REST, False, WIDTH, BLOCK_K)
        dropped, by_scores = weigh(
            queries, few_keys, few_values, WHOLE, scale, threshold, False, DROPOUT
        )
        by_query = tl.dot(by_scores, few_keys, by_query, input_precision="ieee")
        if ALONE:
            store_alone(
                by_key_ptr, dropped, by_scores, queries, WHOLE, stride, by_scale, KEYS, False,
                WIDTH, BLOCK_K,
            )  # fmt: skip
    for block in tl.range(0, WHOLE, BLOCK_N, disable_licm=True):
        key = load_rows(key_ptr, block, key_stride, KEYS, BLOCK_N, True, WIDTH, BLOCK_K)
        value = load_rows(value_ptr, block, key_stride, KEYS, BLOCK_N, True, WIDTH, BLOCK_K)
        weights, by_weights = weigh(queries, key, value, block, scale, threshold, True, DROPOUT)
        by_query = tl.dot(by_weights, key, by_query, input_precision="ieee")
        if ALONE:
            store_alone(
                by_key_ptr, weights, by_weights, queries, block, stride, by_scale, KEYS, True,
                WIDTH, BLOCK_K,
            )  # fmt: skip
    by_query *= by_scale
    store_queries(by_query_ptr, by_query, order_ptr, start, end, stride, head, WIDTH)


@triton.jit
def pass_queries(
    upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_key_ptr, log_sum_ptr, word_ptr,
    order_ptr, query_stride, key_stride, block, begin, end, head, heads, tokens, scale, threshold,
    rescale, by_scale, KEYS: tl.constexpr, WIDTH: tl.constexpr, DROPOUT: tl.constexpr,
    WHOLE: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of a tile of keys and values."""
    key = load_rows(key_ptr, block, key_stride, KEYS, BLOCK_N, WHOLE, WIDTH, BLOCK_K)
    value = load_rows(value_ptr, block, key_stride, KEYS, BLOCK_N, WHOLE, WIDTH, BLOCK_K)
    by_key = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    by_value = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in tl.range(begin, end, BLOCK_Q, num_stages=1, disable_licm=True):
        queries = load_queries(
            upstream_ptr, out_ptr, query_ptr, log_sum_ptr, word_ptr, order_ptr, query_stride,
            start, end, head, heads, tokens, rescale, WIDTH, DROPOUT, BLOCK_Q, BLOCK_K,
        )  # fmt: skip
        weights, by_weights = weigh(queries, key, value, block, scale, threshold, WHOLE, DROPOUT)
        by_value = turned(weights, queries[1], by_value)
        by_key = turned(by_weights, queries[0], by_key)
    by_key *= by_scale
    store_keys(by_key_ptr, by_key, by_value, block, heads * WIDTH, KEYS, WHOLE, WIDTH)


@triton.jit(do_not_specialize=["pictures", "tokens", "threshold"])
def attention_pictures_backward_kernel(
    upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr, sums_ptr,
    log_sum_ptr, word_ptr, order_ptr, starts_ptr, query_stride, picture_stride, key_stride, heads,
    pictures, tokens, scale, threshold, rescale, by_scale, HAS_COLUMNS: tl.constexpr,
    KEYS: tl.constexpr, WIDTH: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    """Gradients of one head of the queries, keys and values of one picture; with columns, sums of
    the last two over its keys too."""
    picture, head = tl.program_id(0) // heads, tl.program_id(0) % heads
    begin = tl.load(starts_ptr + picture).to(tl.int32)
    end = tl.load(starts_ptr + picture + 1).to(tl.int32)
    key_ptr += picture.to(tl.int64) * picture_stride + head * WIDTH
    value_ptr += picture.to(tl.int64) * picture_stride + head * WIDTH
    stride = heads * WIDTH
    by_key_ptr += picture.to(tl.int64) * KEYS * 2 * stride + head * WIDTH
    WHOLE: tl.constexpr = KEYS // BLOCK_N * BLOCK_N
    # Where there are none too: what nobody looks at has gradients of zero.
    if end - begin <= BLOCK_Q:
        pass_keys(
            upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr,
            log_sum_ptr, word_ptr, order_ptr, query_stride, key_stride, begin, end, head, heads,
            tokens, scale, threshold, rescale, by_scale, True, KEYS, WIDTH, DROPOUT, BLOCK_Q,
            BLOCK_N, BLOCK_K, REST,
        )  # fmt: skip
    else:
        for start in tl.range(begin, end, BLOCK_Q, num_stages=1, disable_licm=True):
            pass_keys(
                upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_query_ptr, by_key_ptr,
                log_sum_ptr, word_ptr, order_ptr, query_stride, key_stride, start, end, head,
                heads, tokens, scale, threshold, rescale, by_scale, False, KEYS, WIDTH, DROPOUT,
                BLOCK_Q, BLOCK_N, BLOCK_K, REST,
            )  # fmt: skip
        for block in tl.range(0, WHOLE, BLOCK_N, num_stages=1, disable_licm=True):
            pass_queries(
                upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_key_ptr, log_sum_ptr,
                word_ptr, order_ptr, query_stride, key_stride, block, begin, end, head, heads,
                tokens, scale, threshold, rescale, by_scale, KEYS, WIDTH, DROPOUT, True, BLOCK_Q,
                BLOCK_N, BLOCK_K,
            )  # fmt: skip
        if REST:
            pass_queries(
                upstream_ptr, out_ptr, query_ptr, key_ptr, value_ptr, by_key_ptr, log_sum_ptr,
                word_ptr, order_ptr, query_stride, key_stride, WHOLE, begin, end, head, heads,
                tokens, scale, threshold, rescale, by_scale, KEYS, WIDTH, DROPOUT, False, BLOCK_Q,
                REST, BLOCK_K,
            )  # fmt: skip
    if HAS_COLUMNS:
        sums_ptr += picture * 2 * stride + head * WIDTH
        left_ptr = log_sum_ptr + (heads + head) * tokens
        store_sums(
            sums_ptr, upstream_ptr, left_ptr, order_ptr, begin, end, head, stride, WIDTH, DROPOUT,
            BLOCK_Q, BLOCK_K,
        )  # fmt: skip
    clear(
        by_query_ptr, order_ptr, starts_ptr, picture, pictures, tokens, stride, head, WIDTH,
        BLOCK_Q, BLOCK_K,
    )  # fmt: skip


def tiles(keys: int, width: int, dtype: torch.dtype) -> dict[str, int]:
    """Constants of a launch."""
    return constants(keys, width, TILES[dtype])


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
    query, key, value = laid(query, key, value)
    by_query = torch.empty(query.shape, device=query.device, dtype=query.dtype)
    side_by_side = (*key.shape[:2], 2, *key.shape[2:])
    by_pictures = torch.empty(side_by_side, device=key.device, dtype=key.dtype).unbind(2)
    gradients = [by_query, *by_pictures]
    if not len(key):
        return [gradient.zero_() for gradient in gradients], None
    sums = log_sum
    if with_columns:
        columns = 2 * key.shape[2:].numel()
        sums = torch.empty(len(key), columns, device=key.device, dtype=torch.float32)
    settings = numbers(query, key, dropout)
    settings["by_scale"] = settings["scale"] / LOG2_E
    attention_pictures_backward_kernel[(len(key) * query.shape[1],)](
        upstream.contiguous(),
        out,
        query,
        key,
        value,
        by_query,
        by_pictures[0],
        sums,
        log_sum,
        order if drawn is None else drawn,
        order,
        starts,
        **settings,
        HAS_COLUMNS=with_columns,
        **tiles(key.shape[1], query.shape[2], query.dtype),
    )
    return gradients, linear_kernels.column_sum(sums) if with_columns else None
