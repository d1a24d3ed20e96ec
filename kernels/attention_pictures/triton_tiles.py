"""Parts of the gradients of attention to pictures in Triton: tiles of queries by tiles of keys."""

import triton
import triton.language as tl

from kernels.attention_pictures.triton_kernels import kept, load_tile, store_tile, words


@triton.jit
def load_queries(
    upstream_ptr, out_ptr, query_ptr, log_sum_ptr, word_ptr, order_ptr, query_stride, start, end,
    head, heads, tokens, rescale, WIDTH: tl.constexpr, DROPOUT: tl.constexpr, Q: tl.constexpr,
    K: tl.constexpr,
) -> tuple[tl.tensor, ...]:  # fmt: skip
    """A tile of queries from `start` on, their upstream gradients, what both agree on, logarithms
    of what weights are divided by, random words, and of how large a weight may be. Weights are then
    times `rescale`."""
    place = start + tl.arange(0, Q)
    present = place < end
    token = tl.load(order_ptr + place, present, 0)
    query = load_tile(query_ptr, token, present, query_stride, head, WIDTH, K)
    upstream = load_tile(upstream_ptr, token, present, heads * WIDTH, head, WIDTH, K)
    out = load_tile(out_ptr, token, present, heads * WIDTH, head, WIDTH, K)
    # The mean of the gradients of a query's weights (Dao et al. 2022, arXiv:2205.14135,
    # appendix B).
    agreed = tl.sum(upstream.to(tl.float32) * out.to(tl.float32), 1) * (1 / rescale)
    most = tl.log2(rescale)
    log_sum = tl.load(log_sum_ptr + head * tokens + place, present, 0.0) - most
    first, second = place, place
    if DROPOUT:
        first, second = words(word_ptr, head, tokens, heads, place, present)
    return query, upstream, agreed, log_sum, first, second, most


@triton.jit
def store_queries(
    by_query_ptr, by_query, order_ptr, start, end, stride, head, WIDTH: tl.constexpr
) -> None:
    """Gradients of a tile of queries."""
    # Their numbers are read again: they would take registers all the while.
    place = start + tl.arange(0, by_query.shape[0])
    token = tl.load(order_ptr + place, place < end, 0)
    store_tile(by_query_ptr, by_query, token, place < end, stride, head, WIDTH)


@triton.jit
def weigh(
    queries, key, value, block, scale, threshold, WHOLE: tl.constexpr, DROPOUT: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Weights [queries, keys] that dropout leaves, and gradients of scores."""
    query, upstream, agreed, log_sum, first, second, most = queries
    # In this order whoever waits for the second has both, and a weight needs no register until its
    # gradient is there.
    by_weights = tl.dot(upstream, tl.trans(value), input_precision="ieee")
    scores = tl.dot(query, tl.trans(key), input_precision="ieee")
    scores = scores * scale - log_sum[:, None]
    if not WHOLE:
        # A key that is not there adds 0, as it is 0, but its weight might be infinite.
        scores = tl.minimum(scores, most)
    # A query that is not there has finite weights and no gradient: it adds 0.
    weights = tl.exp2(scores)
    dropped = weights
    if DROPOUT:
        stays = kept(first, second, block, key.shape[0], threshold)
        dropped = tl.where(stays, weights, 0.0)
    by_scores = dropped * by_weights - weights * agreed[:, None]
    return dropped.to(key.dtype), by_scores.to(key.dtype)


@triton.jit
def turned(weights, rows, so_far) -> tl.tensor:
    """`so_far` [keys, K] and the product of weights [queries, keys], turned, by rows of queries.

    So of few keys too: as columns of a product their weights would be a narrow tile in shared
    memory, whose address ptxas 12.8 (Triton 3.6) takes from a register that nothing has set.
    """
    return tl.dot(tl.trans(weights), rows, so_far, input_precision="ieee")


@triton.jit
def store_keys(
    ptr, by_key, by_value, first, stride, KEYS: tl.constexpr, WHOLE: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of a head's keys and values from `first` on: they stand side by side, as products
    that make both read them."""
    number, k = first + tl.arange(0, by_key.shape[0]), tl.arange(0, by_key.shape[1])
    places = ptr + number[:, None] * (2 * stride) + k[None, :]
    seen = (k < WIDTH)[None, :]
    if not WHOLE:
        seen = (number < KEYS)[:, None] & seen
    tl.store(places + stride, by_value.to(ptr.dtype.element_ty), seen)
    tl.store(places, by_key.to(ptr.dtype.element_ty), seen)


@triton.jit
def store_alone(
    ptr, weights, by_scores, queries, first, stride, by_scale, KEYS: tl.constexpr,
    WHOLE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Gradients of keys and values from `first` on that one tile of queries alone looks at."""
    none = tl.zeros((weights.shape[1], BLOCK_K), tl.float32)
    by_value = turned(weights, queries[1], none)
    by_key = turned(by_scores, queries[0], none)
    by_key *= by_scale
    store_keys(ptr, by_key, by_value, first, stride, KEYS, WHOLE, WIDTH)


@triton.jit
def store_sums(
    sums_ptr, upstream_ptr, left_ptr, order_ptr, begin, end, head, stride, WIDTH: tl.constexpr,
    DROPOUT: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
) -> None:  # fmt: skip
    """Sums of the gradients of a head's keys and values."""
    k, total = tl.arange(0, BLOCK_K), tl.zeros((BLOCK_Q, BLOCK_K), tl.float32)
    for start in tl.range(begin, end, BLOCK_Q, num_stages=1):
        place = start + tl.arange(0, BLOCK_Q)
        present = place < end
        token = tl.load(order_ptr + place, present, 0)
        upstream = load_tile(upstream_ptr, token, present, stride, head, WIDTH, BLOCK_K)
        weighed = upstream.to(tl.float32)
        if DROPOUT:
            weighed *= tl.load(left_ptr + place, present, 0.0)[:, None]
        total += weighed
    tl.store(sums_ptr + k, tl.zeros((BLOCK_K,), tl.float32), k < WIDTH)
    tl.store(sums_ptr + stride + k, tl.sum(total, 0), k < WIDTH)
