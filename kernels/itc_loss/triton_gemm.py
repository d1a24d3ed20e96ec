"""The streaming contrastive loss with the library's products, and its running softmax in Triton.

The other way to build `triton_kernels`: scores of a chunk of keys by one product, a kernel that
turns them into weights and keeps maximum and total, and a second product with the keys. It moves
every score through memory twice, and in exchange both products run at the library's speed: the way
of float32, which no tensor core multiplies whole.
"""

import torch
import triton
import triton.language as tl

from kernels.itc_loss.triton_merge import merge

# Keys at a time: their scores for 2 x 512 rows are 64 MB, in launches few enough not to count.
CHUNK = 16384
BLOCK_N, WARPS = 2048, 8


@triton.jit
def itc_chunk_kernel(
    scores_ptr,
    weights_ptr,
    temperature_ptr,
    maximum_ptr,
    total_ptr,
    shrink_ptr,
    rows,
    columns,
    first,
    group_size,
    IN_BATCH: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """One row of scores of keys `first` and on: its running maximum and total, and weights."""
    row = tl.program_id(0)
    scores_ptr += row.to(tl.int64) * columns
    weights_ptr += row.to(tl.int64) * columns
    temperature = tl.load(temperature_ptr).to(tl.float32)
    group = row % rows // group_size
    before = tl.load(maximum_ptr + row)
    lanes = tl.full((BLOCK_N,), float("-inf"), tl.float32)
    for start in range(0, columns, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        visible = n < columns
        if IN_BATCH:
            visible = visible & ((first + n) // group_size == group)
        scores = tl.load(scores_ptr + n, n < columns, float("-inf")) / temperature
        lanes = tl.maximum(lanes, tl.where(visible, scores, float("-inf")))
    maximum = tl.maximum(before, tl.max(lanes, 0))
    # A row that has seen no key yet has a maximum of -inf: subtract 0 instead.
    finite = tl.where(maximum == float("-inf"), 0.0, maximum)
    totals = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, columns, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        visible = n < columns
        if IN_BATCH:
            visible = visible & ((first + n) // group_size == group)
        scores = tl.load(scores_ptr + n, n < columns, float("-inf")) / temperature
        weights = tl.where(visible, tl.exp(scores - finite), 0.0)
        totals += weights
        tl.store(weights_ptr + n, weights.to(weights_ptr.dtype.element_ty), n < columns)
    shrink = tl.exp(before - finite)
    tl.store(maximum_ptr + row, maximum)
    tl.store(total_ptr + row, tl.load(total_ptr + row) * shrink + tl.sum(totals, 0))
    tl.store(shrink_ptr + row, shrink)


def loss_and_gradients(
    query_BE: torch.Tensor,
    momentum_query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    queue_QE: torch.Tensor,
    temperature: torch.Tensor,
    alpha: torch.Tensor | float,
    query_ids: torch.Tensor | None,
    key_ids: torch.Tensor | None,
    queue_ids: torch.Tensor | None,
    group_size: int,
    *,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `streaming.loss_and_gradients`, products in `dtype`."""
    (rows, width), device, has_ids = query_BE.shape, query_BE.device, query_ids is not None
    dtype = dtype if dtype == torch.bfloat16 else torch.float32
    both = torch.cat([query_BE.detach().to(dtype), momentum_query_BE.detach().to(dtype)])
    keys_BE, temperature = keys_BE.detach().to(dtype).contiguous(), temperature.detach()
    kinds = 3 if has_ids else 2
    total = torch.zeros(kinds, 1, rows, device=device)
    maximum, weighted = total - float("inf"), torch.zeros(kinds, 1, rows, width, device=device)
    sums, shrink = weighted[:2].view(2 * rows, width), torch.empty(2 * rows, 1, device=device)
    for keys_of_segment, ids_of_segment, in_batch in (
        (keys_BE, key_ids, True),
        (queue_QE, queue_ids, False),
    ):
        for start in range(0, len(keys_of_segment), CHUNK):
            keys = keys_of_segment[start : start + CHUNK].to(dtype)
            scores = _product(both, keys.T)
            weights = scores if dtype == torch.float32 else torch.empty_like(scores, dtype=dtype)
            itc_chunk_kernel[(2 * rows,)](
                scores,
                weights,
                temperature,
                maximum,
                total,
                shrink,
                rows,
                len(keys),
                start,
                group_size,
                IN_BATCH=in_batch,
                BLOCK_N=BLOCK_N,
                num_warps=WARPS,
            )
            sums.mul_(shrink).add_(_product(weights, keys))
            if has_ids:
                match = query_ids[:, None] == ids_of_segment[None, start : start + CHUNK]
                if in_batch:
                    groups = torch.arange(rows, device=device) // group_size
                    match &= groups[:, None] == groups[None, start : start + CHUNK]
                total[2, 0] += match.sum(1)
                weighted[2, 0] += _product(match.to(dtype), keys)
    running = (maximum, total, weighted)
    return merge(both[:rows], keys_BE, temperature, alpha, running, dtype=dtype)


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """left @ right in float32: scores rounded to bf16 would be three times as wrong."""
    if left.dtype == torch.float32:
        return left @ right
    return torch.mm(left, right, out_dtype=torch.float32)
