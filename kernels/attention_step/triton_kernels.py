"""A token's attention to those before it in Triton: a program a head of a row, all in registers."""

import torch
import triton
import triton.language as tl

from kernels.attention_step.places import Places

WARPS = 2


@triton.jit
def attention_step_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    keys_ptr,
    values_ptr,
    places_ptr,
    origins_ptr,
    seen_ptr,
    heads,
    length,
    width,
    scale,
    HAS_ORIGINS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Softmax over the places up to the row's own, in float32."""
    row, head = tl.program_id(0), tl.program_id(1)
    t, k = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_K)
    place = tl.load(places_ptr + row).to(tl.int32)
    new = (row.to(tl.int64) * heads + head) * width + k
    query = tl.load(query_ptr + new, k < width, 0.0).to(tl.float32) * scale
    key = tl.load(key_ptr + new, k < width, 0.0)
    value = tl.load(value_ptr + new, k < width, 0.0)
    before, own = t < place, t == place
    origin = t.to(tl.int64) * 0 + row
    if HAS_ORIGINS:
        origin = tl.load(origins_ptr + row.to(tl.int64) * length + t, before, 0)
    kept = ((origin * heads + head) * length + t)[:, None] * width + k[None, :]
    mask = before[:, None] & (k < width)[None, :]
    keys = tl.load(keys_ptr + kept, mask, 0.0).to(tl.float32)
    values = tl.load(values_ptr + kept, mask, 0.0).to(tl.float32)
    # No other program reads what is written here: whose token it is takes it from its own.
    there = ((row.to(tl.int64) * heads + head) * length + place) * width + k
    tl.store(keys_ptr + there, key.to(keys_ptr.dtype.element_ty), k < width)
    tl.store(values_ptr + there, value.to(values_ptr.dtype.element_ty), k < width)
    keys = tl.where(own[:, None], key.to(tl.float32)[None, :], keys)
    values = tl.where(own[:, None], value.to(tl.float32)[None, :], values)
    scores = tl.where(t <= place, tl.sum(keys * query[None, :], 1), float("-inf"))
    weights = tl.exp(scores - tl.max(scores, 0))
    context = tl.sum(weights[:, None] * values, 0) / tl.sum(weights, 0)
    tl.store(seen_ptr + new, context.to(seen_ptr.dtype.element_ty), k < width)


def step(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: Places,
) -> torch.Tensor:
    """As `attention_step_`."""
    at, origins = places.at, places.origins
    rows, heads, length, width = keys.shape
    out = torch.empty(rows, heads * width, dtype=query.dtype, device=query.device)
    if rows:
        attention_step_kernel[(rows, heads)](
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            keys,
            values,
            at.contiguous(),
            at if origins is None else origins.contiguous(),
            out,
            heads,
            length,
            width,
            width**-0.5,
            HAS_ORIGINS=origins is not None,
            BLOCK_T=triton.next_power_of_2(length),
            BLOCK_K=triton.next_power_of_2(width),
            num_warps=WARPS,
        )
    return out
