"""Hard negatives in Triton: similarities, softmax and the draw in one launch, by the Gumbel trick.

argmax_j (log w_j + g_j) with independent Gumbel g_j draws j with probability w_j / sum w.
"""

import torch
import triton
import triton.language as tl

BLOCK_M, WARPS = 16, 4
# Keys at a time; others than these as float32, of which Triton 3.6 keeps no more in registers.
BLOCK_N = {torch.float32: 16, torch.bfloat16: 32, torch.float16: 32}


@triton.jit(do_not_specialize=["seed"])
def hard_negatives_kernel(
    query_ptr,
    keys_ptr,
    temperature_ptr,
    ids_ptr,
    group_keys_ptr,
    out_ptr,
    seed,
    floor,
    group_size,
    width,
    HAS_IDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """A tile of one group's rows; two passes over the group's keys."""
    group = tl.program_id(0).to(tl.int64)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    e = tl.arange(0, BLOCK_E)
    row_mask, e_mask = m < group_size, e < width
    base = group * group_size
    own = (base + m)[:, None] * width + e[None, :]
    query = tl.load(query_ptr + own, row_mask[:, None] & e_mask[None, :], 0.0)
    temperature = tl.load(temperature_ptr).to(tl.float32)
    stream = seed ^ (tl.load(group_keys_ptr + group) * 0x9E3779B97F4A7C1)
    if HAS_IDS:
        ids = tl.load(ids_ptr + base + m, row_mask, -1)

    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, group_size, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_mask = n < group_size
        places = (base + n)[:, None] * width + e[None, :]
        keys = tl.load(keys_ptr + places, n_mask[:, None] & e_mask[None, :], 0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") / temperature
        scores = tl.where(n_mask[None, :], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        total = total * tl.exp(maximum - new_maximum)
        total += tl.sum(tl.exp(scores - new_maximum[:, None]), 1)
        maximum = new_maximum

    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    best_even = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    chosen = m.to(tl.int32)
    chosen_even = m.to(tl.int32)
    for start in range(0, group_size, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_mask = n < group_size
        places = (base + n)[:, None] * width + e[None, :]
        keys = tl.load(keys_ptr + places, n_mask[:, None] & e_mask[None, :], 0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision="ieee") / temperature
        weights = tl.exp(scores - maximum[:, None]) / total[:, None] + floor
        others = n_mask[None, :] & (m[:, None] != n[None, :])
        candidates = others
        if HAS_IDS:
            key_ids = tl.load(ids_ptr + base + n, n_mask, -2)
            candidates = candidates & (ids[:, None] != key_ids[None, :])
        uniform = tl.rand(stream, m[:, None] * group_size + n[None, :])
        noise = -tl.log(-tl.log(tl.maximum(uniform, 1e-12)))
        # Rows without a candidate draw evenly among the others of their group.
        even = tl.where(others, noise, float("-inf"))
        drawn = tl.where(candidates & (weights > 0), tl.log(weights) + noise, float("-inf"))
        tile_best, tile_even = tl.max(drawn, 1), tl.max(even, 1)
        chosen = tl.where(tile_best > best, start + tl.argmax(drawn, 1), chosen)
        chosen_even = tl.where(tile_even > best_even, start + tl.argmax(even, 1), chosen_even)
        best, best_even = tl.maximum(best, tile_best), tl.maximum(best_even, tile_even)
    chosen = tl.where(best == float("-inf"), chosen_even, chosen)
    tl.store(out_ptr + base + m, base + chosen.to(tl.int64), row_mask)


def draw(
    query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    temperature: torch.Tensor,
    seed: int,
    group_keys: torch.Tensor,
    floor: float,
    ids: torch.Tensor | None,
    group_size: int,
) -> torch.Tensor:
    """As the torch version of `draw_hard_negatives`, in distribution: [B] int64."""
    rows, width = query_BE.shape
    query, keys = query_BE.detach().contiguous(), keys_BE.detach().to(query_BE.dtype).contiguous()
    out = torch.empty(rows, dtype=torch.int64, device=query.device)
    hard_negatives_kernel[(rows // group_size, triton.cdiv(group_size, BLOCK_M))](
        query,
        keys,
        temperature.detach(),
        out if ids is None else ids.contiguous(),
        group_keys.contiguous(),
        out,
        seed,
        floor,
        group_size,
        width,
        HAS_IDS=ids is not None,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N.get(query.dtype, BLOCK_N[torch.float32]),
        BLOCK_E=max(16, triton.next_power_of_2(width)),
        num_warps=WARPS,
    )
    return out
