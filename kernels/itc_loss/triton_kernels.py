"""The streaming contrastive loss in Triton: tiles of rows x slices of keys, then one merge.

A program takes a tile of rows, online or momentum, and a slice of [batch | queue], and leaves
what a running softmax holds (`streaming.RunningSoftmax`); slices make enough programs to fill a
GPU when rows are few. A second kernel merges the slices and writes losses and gradients. There is
no backward kernel, and batch keys and queue stay where they lie.
"""

import torch
import triton
import triton.language as tl

from kernels.itc_loss.triton_merge import merge

# By the dtype of the products: rows, keys and features at a time, and warps. In bf16 all features
# are one step, and a tile of keys is loaded once for both products; in float32 that would not
# stay in registers, and with Triton 3.6 no more than 32 keys do in bf16.
TILES = {torch.float32: (16, 16, 32, 8), torch.bfloat16: (64, 32, 0, 8)}
# Programs that keep a GPU busy, for each of its processors.
PROGRAMS = 4


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
    weighted = tl.dot(weights.to(keys.dtype), keys, weighted, input_precision="ieee")
    return new_maximum, total, weighted


@triton.jit
def _scores(
    rows_ptr, m, m_mask, keys_ptr, n, n_mask, stride_n, stride_e, width, STEP_E: tl.constexpr
):
    """rows @ keys.T, STEP_E features at a time."""
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
def _segment(
    rows_ptr, m, m_mask, ids, keys_ptr, ids_ptr, first, last, stride_n, stride_e, width,
    group_size, temperature, maximum, total, weighted,
    IN_BATCH: tl.constexpr, POSITIVES: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr, STEP_E: tl.constexpr,
):  # fmt: skip
    """Take keys `first` to `last` of one segment in; with POSITIVES their matches, plainly."""
    e = tl.arange(0, BLOCK_E)
    e_mask = e < width
    own = m.to(tl.int64)[:, None] * width + e[None, :]
    if STEP_E == 0 and not POSITIVES:
        rows = tl.load(rows_ptr + own, m_mask[:, None] & e_mask[None, :], 0.0)
    for start in range(first, last, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        n_mask = n < last
        places = n.to(tl.int64)[:, None] * stride_n + e.to(tl.int64)[None, :] * stride_e
        keys = tl.load(keys_ptr + places, n_mask[:, None] & e_mask[None, :], 0.0)
        keys = keys.to(rows_ptr.dtype.element_ty)
        visible = n_mask[None, :]
        if IN_BATCH:
            visible = visible & (m[:, None] // group_size == n[None, :] // group_size)
        if POSITIVES:
            key_ids = tl.load(ids_ptr + n, n_mask, -2)
            match = (visible & (ids[:, None] == key_ids[None, :])).to(tl.float32)
            total += tl.sum(match, 1)
            weighted = tl.dot(match.to(keys.dtype), keys, weighted, input_precision="ieee")
        else:
            if STEP_E == 0:
                scores = tl.dot(rows, tl.trans(keys), input_precision="ieee")
            else:
                scores = _scores(
                    rows_ptr, m, m_mask, keys_ptr, n, n_mask, stride_n, stride_e, width, STEP_E
                )
            scores = tl.where(visible, scores / temperature, float("-inf"))
            maximum, total, weighted = _fold(scores, keys, maximum, total, weighted)
    return maximum, total, weighted


@triton.jit
def itc_partials_kernel(
    rows_ptr,
    keys_ptr,
    queue_ptr,
    temperature_ptr,
    query_ids_ptr,
    key_ids_ptr,
    queue_ids_ptr,
    maximum_ptr,
    total_ptr,
    weighted_ptr,
    rows,
    queue_size,
    width,
    span,
    stride_n,
    stride_e,
    group_size,
    POSITIVES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STEP_E: tl.constexpr,
):
    """A tile of rows of one kind against `span` keys; results lie [kind, slice, row]."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_mask = m < rows
    part, kind = tl.program_id(1), tl.program_id(2)
    if POSITIVES:
        kind = 2
        ids = tl.load(query_ids_ptr + m, m_mask, -1)
    else:
        rows_ptr += kind.to(tl.int64) * rows * width
        ids = m
    temperature = tl.load(temperature_ptr).to(tl.float32)
    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    first = part * span

    # Rows of this tile only see in-batch keys of their own groups.
    first_row = tl.program_id(0) * BLOCK_M
    last_row = tl.minimum(first_row + BLOCK_M, rows) - 1
    own_first = tl.maximum(first, first_row // group_size * group_size)
    own_last = tl.minimum((last_row // group_size + 1) * group_size, rows)
    own_last = tl.minimum(first + span, own_last)
    maximum, total, weighted = _segment(
        rows_ptr, m, m_mask, ids, keys_ptr, key_ids_ptr, own_first, own_last, width, 1, width,
        group_size, temperature, maximum, total, weighted,
        True, POSITIVES, BLOCK_N, BLOCK_E, STEP_E,
    )  # fmt: skip
    queue_first = tl.maximum(first - rows, 0)
    queue_last = tl.minimum(first + span - rows, queue_size)
    maximum, total, weighted = _segment(
        rows_ptr, m, m_mask, ids, queue_ptr, queue_ids_ptr, queue_first, queue_last, stride_n,
        stride_e, width, group_size, temperature, maximum, total, weighted,
        False, POSITIVES, BLOCK_N, BLOCK_E, STEP_E,
    )  # fmt: skip

    place = (kind * tl.num_programs(1) + part).to(tl.int64) * rows + m
    e = tl.arange(0, BLOCK_E)
    tl.store(maximum_ptr + place, maximum, m_mask)
    tl.store(total_ptr + place, total, m_mask)
    mask = m_mask[:, None] & (e < width)[None, :]
    tl.store(weighted_ptr + place[:, None] * width + e[None, :], weighted, mask)


def slices_of(row_tiles: int, keys: int, block: int, processors: int) -> int:
    """Slices of the keys: enough programs for all processors, none of less than four tiles."""
    wanted = triton.cdiv(PROGRAMS * processors, 2 * row_tiles)
    return max(1, min(wanted, keys // (4 * block)))


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
    """As `streaming.loss_and_gradients`, products in `dtype`; two kernels, three with ids."""
    (rows, width), device, has_ids = query_BE.shape, query_BE.device, query_ids is not None
    dtype = dtype if dtype in TILES else torch.float32
    block_m, block_n, step_e, warps = TILES[dtype]
    both = torch.stack([query_BE.detach().to(dtype), momentum_query_BE.detach().to(dtype)])
    keys = keys_BE.detach().to(dtype).contiguous()
    row_tiles, all_keys = triton.cdiv(rows, block_m), rows + len(queue_QE)
    slices = slices_of(row_tiles, all_keys, block_n, _processors(device))
    span = triton.cdiv(triton.cdiv(all_keys, slices), block_n) * block_n
    slices = triton.cdiv(all_keys, span)
    kinds = 3 if has_ids else 2
    maximum = torch.empty(kinds, slices, rows, device=device)
    total, weighted = torch.empty_like(maximum), torch.empty(*maximum.shape, width, device=device)
    ids = (query_ids, key_ids, queue_ids)
    # A pointer is passed where there are no ids; the kernel does not follow it.
    pointers = [both if i is None else i.contiguous() for i in ids]
    block_e = max(16, triton.next_power_of_2(width))
    for positives in (False, True) if has_ids else (False,):
        itc_partials_kernel[(row_tiles, slices, 1 if positives else 2)](
            both,
            keys,
            queue_QE,
            temperature.detach(),
            *pointers,
            maximum,
            total,
            weighted,
            rows,
            len(queue_QE),
            width,
            span,
            queue_QE.stride(0),
            queue_QE.stride(1),
            group_size,
            POSITIVES=positives,
            BLOCK_M=block_m,
            BLOCK_N=block_n,
            BLOCK_E=block_e,
            STEP_E=step_e,
            num_warps=warps,
        )
    running = (maximum, total, weighted)
    return merge(both[0], keys, temperature, alpha, running, has_ids=has_ids)


def _processors(device: torch.device) -> int:
    """Of the GPU; in the interpreter some, so that it takes the same way."""
    if device.type != "cuda":
        return 3
    return torch.cuda.get_device_properties(device).multi_processor_count
