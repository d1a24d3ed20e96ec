"""Hard negatives in Triton: the similarities tile by tile, then the draw, few rows a program.

By the Gumbel trick: argmax_j (log w_j + g_j) with independent Gumbel g_j draws j with probability
w_j / sum w. The similarities lie in memory between the two: a program that goes over all keys of
its rows waits for each tile of them, twice, and of 256 rows there are but few such programs.
"""

import torch
import triton
import triton.language as tl

# Rows and keys of a tile of similarities, then of the draw, and warps.
BLOCK, BLOCK_M, BLOCK_N, WARPS = 16, 8, 256, 4
LOWEST = tl.constexpr(-3.0e38)
# More than Gumbel noise of 1e-12 and of nearly 1 are apart.
BEHIND = tl.constexpr(100.0)


@triton.jit
def hard_negatives_scores_kernel(
    query_ptr,
    keys_ptr,
    temperature_ptr,
    scores_ptr,
    group_size,
    width,
    BLOCK: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """q k / tau of a tile of one group's rows and keys."""
    base = tl.program_id(0).to(tl.int64) * group_size
    m = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    e = tl.arange(0, BLOCK_E)
    m_mask, n_mask, e_mask = m < group_size, n < group_size, e < width
    rows = (base + m)[:, None]
    query = tl.load(query_ptr + rows * width + e[None, :], m_mask[:, None] & e_mask[None, :], 0.0)
    places = (base + n)[:, None] * width + e[None, :]
    keys = tl.load(keys_ptr + places, n_mask[:, None] & e_mask[None, :], 0.0)
    temperature = tl.load(temperature_ptr).to(tl.float32)
    scores = tl.dot(query, tl.trans(keys), input_precision="ieee") / temperature
    tl.store(scores_ptr + rows * group_size + n[None, :], scores, m_mask[:, None] & n_mask[None, :])


@triton.jit(do_not_specialize=["seed"])
def hard_negatives_kernel(
    scores_ptr,
    ids_ptr,
    group_keys_ptr,
    out_ptr,
    seed,
    floor,
    group_size,
    HAS_IDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Softmax over the group's keys and the draw, of some of a group's rows."""
    group = tl.program_id(0).to(tl.int64)
    base = group * group_size
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_mask = m < group_size
    score_ptrs = scores_ptr + (base + m)[:, None] * group_size
    stream = seed ^ (tl.load(group_keys_ptr + group) * 0x9E3779B97F4A7C1)
    if HAS_IDS:
        ids = tl.load(ids_ptr + base + m, row_mask, -1)

    # Every lane keeps a running softmax of its own.
    maximum = tl.full((BLOCK_M, BLOCK_N), LOWEST, tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(0, group_size, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        mask = row_mask[:, None] & (n < group_size)[None, :]
        scores = tl.load(score_ptrs + n[None, :], mask, LOWEST)
        larger = tl.maximum(maximum, scores)
        total = total * tl.exp(maximum - larger) + tl.exp(scores - larger)
        maximum = larger
    highest = tl.max(maximum, 1)
    total = tl.sum(total * tl.exp(maximum - highest[:, None]), 1)

    best = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    best_even = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    chosen = m.to(tl.int32)
    chosen_even = m.to(tl.int32)
    for start in range(0, group_size, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_mask = n < group_size
        mask = row_mask[:, None] & n_mask[None, :]
        scores = tl.load(score_ptrs + n[None, :], mask, LOWEST)
        weights = tl.exp(scores - highest[:, None]) / total[:, None] + floor
        others = n_mask[None, :] & (m[:, None] != n[None, :])
        uniform = tl.rand(stream, m[:, None] * group_size + n[None, :])
        noise = -tl.log(-tl.log(tl.maximum(uniform, 1e-12)))
        # Rows without any weight draw evenly among the others of their group, and among keys that
        # match only where all do.
        even = tl.where(others, noise, float("-inf"))
        candidates = others & (weights > 0)
        if HAS_IDS:
            key_ids = tl.load(ids_ptr + base + n, n_mask, -2)
            unlike = ids[:, None] != key_ids[None, :]
            candidates = candidates & unlike
            even = tl.where(unlike, even, even - BEHIND)
        logs = tl.log(tl.where(candidates, weights, 1.0))
        drawn = tl.where(candidates, logs + noise, float("-inf"))
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
    scores = torch.empty(rows, group_size, dtype=torch.float32, device=query.device)
    out = torch.empty(rows, dtype=torch.int64, device=query.device)
    tiles = triton.cdiv(group_size, BLOCK)
    hard_negatives_scores_kernel[(rows // group_size, tiles, tiles)](
        query,
        keys,
        temperature.detach(),
        scores,
        group_size,
        width,
        BLOCK=BLOCK,
        BLOCK_E=max(16, triton.next_power_of_2(width)),
        num_warps=WARPS,
    )
    hard_negatives_kernel[(rows // group_size, triton.cdiv(group_size, BLOCK_M))](
        scores,
        out if ids is None else ids.contiguous(),
        group_keys.contiguous(),
        out,
        seed,
        floor,
        group_size,
        HAS_IDS=ids is not None,
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        num_warps=WARPS,
    )
    return out
