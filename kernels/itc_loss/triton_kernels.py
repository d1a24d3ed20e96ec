"""The streaming contrastive loss in Triton: one pass over the keys, no matrix of similarities."""

import torch
import triton
import triton.language as tl

BLOCK_M, WARPS = 16, 8
# Keys at a time and features at a time: the largest that stay in registers.
TILES = {torch.float32: (16, 32), torch.bfloat16: (32, 64), torch.float16: (32, 64)}


@triton.jit
def _fold(scores, keys, maximum, total, weighted):
    """Take a tile of scores and its keys into the running softmax."""
    new_maximum = tl.maximum(maximum, tl.max(scores, 1))
    # A row that has seen no key yet has a maximum of -inf: subtract 0 instead.
    finite = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    weights = tl.exp(scores - finite[:, None])
    shrink = tl.exp(maximum - finite)
    total = total * shrink + tl.sum(weights, 1)
    weighted = weighted * shrink[:, None]
    weighted += tl.dot(weights.to(keys.dtype), keys, input_precision="ieee")
    return new_maximum, total, weighted


@triton.jit
def _scores(
    rows_ptr, m, m_mask, keys_ptr, n, n_mask, stride_n, stride_e, width, STEP_E: tl.constexpr
):
    """rows @ keys.T, STEP_E features at a time: whole rows as operands do not fit registers."""
    scores = tl.zeros((m.shape[0], n.shape[0]), tl.float32)
    for first in tl.range(0, width, STEP_E, num_stages=1):
        e = first + tl.arange(0, STEP_E)
        e_mask = e < width
        own = m.to(tl.int64)[:, None] * width + e[None, :]
        rows = tl.load(rows_ptr + own, m_mask[:, None] & e_mask[None, :], 0.0)
        places = n.to(tl.int64)[None, :] * stride_n + e.to(tl.int64)[:, None] * stride_e
        keys = tl.load(keys_ptr + places, e_mask[:, None] & n_mask[None, :], 0.0)
        scores = tl.dot(rows, keys.to(rows.dtype), scores, input_precision="ieee")
    return scores


@triton.jit
def itc_loss_kernel(
    query_ptr,
    soft_ptr,
    keys_ptr,
    queue_ptr,
    temperature_ptr,
    alpha_ptr,
    query_ids_ptr,
    key_ids_ptr,
    queue_ids_ptr,
    loss_ptr,
    by_query_ptr,
    by_temperature_ptr,
    rows,
    queue_size,
    width,
    stride_n,
    stride_e,
    group_size,
    HAS_IDS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STEP_E: tl.constexpr,
):
    """A tile of rows against all keys; see `streaming` for the formulas."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    e = tl.arange(0, BLOCK_E)
    row_mask, e_mask = m < rows, e < width
    own = m.to(tl.int64)[:, None] * width + e[None, :]
    tile_mask = row_mask[:, None] & e_mask[None, :]
    temperature = tl.load(temperature_ptr).to(tl.float32)
    alpha = tl.load(alpha_ptr).to(tl.float32)
    if HAS_IDS:
        ids = tl.load(query_ids_ptr + m, row_mask, -1)

    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    soft_maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    soft_total = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    soft_weighted = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    positive_sum = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    positives = tl.zeros((BLOCK_M,), tl.float32)

    # Rows of this tile only see in-batch keys of their own groups.
    first_row = tl.program_id(0) * BLOCK_M
    last_row = tl.minimum(first_row + BLOCK_M, rows) - 1
    first_key = first_row // group_size * group_size
    end_key = tl.minimum((last_row // group_size + 1) * group_size, rows)
    for start in range(first_key, end_key, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_mask = n < end_key
        places = n.to(tl.int64)[:, None] * width + e[None, :]
        keys = tl.load(keys_ptr + places, n_mask[:, None] & e_mask[None, :], 0.0)
        visible = n_mask[None, :] & (m[:, None] // group_size == n[None, :] // group_size)
        scores = _scores(query_ptr, m, row_mask, keys_ptr, n, n_mask, width, 1, width, STEP_E)
        scores /= temperature
        scores = tl.where(visible, scores, float("-inf"))
        maximum, total, weighted = _fold(scores, keys, maximum, total, weighted)
        scores = _scores(soft_ptr, m, row_mask, keys_ptr, n, n_mask, width, 1, width, STEP_E)
        scores /= temperature
        scores = tl.where(visible, scores, float("-inf"))
        soft_maximum, soft_total, soft_weighted = _fold(
            scores, keys, soft_maximum, soft_total, soft_weighted
        )
        if HAS_IDS:
            key_ids = tl.load(key_ids_ptr + n, n_mask, -2)
            match = (visible & (ids[:, None] == key_ids[None, :])).to(tl.float32)
            positives += tl.sum(match, 1)
            positive_sum += tl.dot(match.to(keys.dtype), keys, input_precision="ieee")

    for start in range(0, queue_size, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_mask = n < queue_size
        places = n.to(tl.int64)[:, None] * stride_n
        places += e.to(tl.int64)[None, :] * stride_e
        keys = tl.load(queue_ptr + places, n_mask[:, None] & e_mask[None, :], 0.0)
        keys = keys.to(query_ptr.dtype.element_ty)
        scores = _scores(
            query_ptr,
            m,
            row_mask,
            queue_ptr,
            n,
            n_mask,
            stride_n,
            stride_e,
            width,
            STEP_E,
        )
        scores /= temperature
        scores = tl.where(n_mask[None, :], scores, float("-inf"))
        maximum, total, weighted = _fold(scores, keys, maximum, total, weighted)
        scores = _scores(
            soft_ptr,
            m,
            row_mask,
            queue_ptr,
            n,
            n_mask,
            stride_n,
            stride_e,
            width,
            STEP_E,
        )
        scores /= temperature
        scores = tl.where(n_mask[None, :], scores, float("-inf"))
        soft_maximum, soft_total, soft_weighted = _fold(
            scores, keys, soft_maximum, soft_total, soft_weighted
        )
        if HAS_IDS:
            key_ids = tl.load(queue_ids_ptr + n, n_mask, -2)
            match = (n_mask[None, :] & (ids[:, None] == key_ids[None, :])).to(tl.float32)
            positives += tl.sum(match, 1)
            positive_sum += tl.dot(match.to(keys.dtype), keys, input_precision="ieee")

    if HAS_IDS:
        positive = positive_sum / tl.maximum(positives, 1.0)[:, None]
    else:
        positive = tl.load(keys_ptr + own, tile_mask, 0.0).to(tl.float32)
    # Rows beyond the batch have seen no key: keep their division defined, they are not stored.
    total = tl.where(row_mask, total, 1.0)
    soft_total = tl.where(row_mask, soft_total, 1.0)
    target = alpha * soft_weighted / soft_total[:, None] + (1 - alpha) * positive
    gradient = (weighted / total[:, None] - target) / temperature
    queries = tl.load(query_ptr + own, tile_mask, 0.0).to(tl.float32)
    loss = maximum + tl.log(total) - tl.sum(queries * target, 1) / temperature
    tl.store(loss_ptr + m, loss, row_mask)
    tl.store(by_query_ptr + own, gradient, tile_mask)
    tl.store(by_temperature_ptr + m, -tl.sum(queries * gradient, 1) / temperature, row_mask)


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
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `streaming.loss_and_gradients`, in one kernel launch."""
    rows, width = query_BE.shape
    dtype = query_BE.dtype if query_BE.dtype in TILES else torch.float32
    query = query_BE.detach().to(dtype).contiguous()
    losses = torch.empty(rows, device=query.device, dtype=torch.float32)
    by_query = torch.empty(rows, width, device=query.device, dtype=torch.float32)
    by_temperature = torch.empty_like(losses)
    ids = (query_ids, key_ids, queue_ids)
    block_n, step_e = TILES[dtype]
    # A pointer is passed where there are no ids; the kernel does not follow it.
    pointers = [query if i is None else i.contiguous() for i in ids]
    itc_loss_kernel[(triton.cdiv(rows, BLOCK_M),)](
        query,
        momentum_query_BE.to(dtype).contiguous(),
        keys_BE.to(dtype).contiguous(),
        queue_QE,
        temperature.detach(),
        torch.as_tensor(alpha, dtype=torch.float32, device=query.device),
        *pointers,
        losses,
        by_query,
        by_temperature,
        rows,
        len(queue_QE),
        width,
        queue_QE.stride(0),
        queue_QE.stride(1),
        group_size,
        HAS_IDS=query_ids is not None,
        BLOCK_M=BLOCK_M,
        BLOCK_N=block_n,
        BLOCK_E=max(16, triton.next_power_of_2(width)),
        STEP_E=step_e,
        num_warps=WARPS,
    )
    return losses, by_query, by_temperature
