"""Attention of few queries in Triton: a program a head of a row goes once over keys and values."""

import torch
import triton
import triton.language as tl

# The least rows, and columns to add up, of a product; keys at a time, and reads that run ahead.
BLOCK_L, LEAST_K, BLOCK_S, WARPS, STAGES = 16, 16, 64, 4, 3


@triton.jit
def attention_few_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    seen_ptr,
    heads,
    queries,
    keys,
    width,
    scale,
    query_b,
    query_h,
    query_l,
    key_b,
    key_h,
    key_s,
    value_b,
    value_h,
    value_s,
    BLOCK_L: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Softmax in float32, of which the highest score so far is known."""
    row, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    query_ptr += row * query_b + head * query_h
    key_ptr += row * key_b + head * key_h
    value_ptr += row * value_b + head * value_h
    first, k, step = tl.arange(0, BLOCK_L), tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_S)
    mask = (first < queries)[:, None] & (k < width)[None, :]
    query = tl.load(query_ptr + first[:, None] * query_l + k[None, :], mask, 0.0)
    highest = tl.full((BLOCK_L,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_L,), tl.float32)
    seen = tl.zeros((BLOCK_L, BLOCK_K), tl.float32)
    for start in tl.range(0, keys, BLOCK_S, num_stages=STAGES):
        s = start + step
        inside = (s < keys)[:, None] & (k < width)[None, :]
        key = tl.load(key_ptr + s[:, None] * key_s + k[None, :], inside, 0.0)
        value = tl.load(value_ptr + s[:, None] * value_s + k[None, :], inside, 0.0)
        scores = tl.dot(query, tl.trans(key)) * scale
        scores = tl.where((s < keys)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        weights, decay = tl.exp(scores - higher[:, None]), tl.exp(highest - higher)
        total = total * decay + tl.sum(weights, 1)
        seen = tl.dot(weights.to(value.dtype), value, seen * decay[:, None])
        highest = higher
    seen = seen / total[:, None]
    places = ((row * queries + first)[:, None] * heads + head) * width + k[None, :]
    tl.store(seen_ptr + places, seen.to(seen_ptr.dtype.element_ty), mask)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """As `few_queries.attend`."""
    batch, heads, queries, width = query.shape
    query, key, value = (t if t.stride(3) == 1 else t.contiguous() for t in (query, key, value))
    seen = torch.empty(batch, queries, heads, width, dtype=query.dtype, device=query.device)
    if seen.numel():
        attention_few_kernel[(batch * heads,)](
            query,
            key,
            value,
            seen,
            heads,
            queries,
            key.shape[2],
            width,
            width**-0.5,
            *(stride for tensor in (query, key, value) for stride in tensor.stride()[:3]),
            BLOCK_L=BLOCK_L,
            BLOCK_S=BLOCK_S,
            BLOCK_K=max(LEAST_K, triton.next_power_of_2(width)),
            STAGES=STAGES,
            num_warps=WARPS,
        )
    return seen.transpose(1, 2)
