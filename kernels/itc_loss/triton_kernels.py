"""The streaming contrastive loss in Triton: tiles of rows x slices of keys, then one merge.

`triton_pack` casts rows and [queue | batch] and lays them out in tiles. A program takes a tile of
rows, online or momentum, and a slice of the keys' tiles, and leaves what a running softmax holds
(`streaming.RunningSoftmax`); slices make enough programs to fill a GPU when rows are few. With ids
a third kind of programs adds up the positives. Last a kernel merges the slices and writes loss
and gradients. There is no backward kernel.
"""

import sys
from functools import cache

import torch
import triton
import triton.language as tl

from kernels.itc_loss.triton_merge import merge
from kernels.itc_loss.triton_pack import pack
from kernels.itc_loss.triton_tiles import TILES, tiles_of

LOG2_E = tl.constexpr(1.4426950408889634)
# Rows of a program that adds positives up, and its warps.
POSITIVES_M, POSITIVES_WARPS = 16, 4


@triton.jit
def _scores(
    rows, rows_ptr, m, tile_ptr, BLOCK_N: tl.constexpr, BLOCK_E: tl.constexpr, STEP_E: tl.constexpr
):
    """rows @ keys of a tile, and the keys; STEP_E features of rows m at a time, or all at once."""
    e, n = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N)
    keys = tl.load(tile_ptr + e[:, None] * BLOCK_N + n[None, :])
    if STEP_E == 0:
        scores = tl.dot(rows, keys, input_precision="ieee")
    else:
        scores = tl.zeros((m.shape[0], BLOCK_N), tl.float32)
        for first in tl.range(0, BLOCK_E, STEP_E, num_stages=1):
            step = first + tl.arange(0, STEP_E)
            some = tl.load(rows_ptr + m.to(tl.int64)[:, None] * BLOCK_E + step[None, :])
            theirs = tl.load(tile_ptr + step[:, None] * BLOCK_N + n[None, :])
            scores = tl.dot(some, theirs, scores, input_precision="ieee")
    return scores, keys


@triton.jit
def _fold(scores, keys, scale, maximum, total, weighted):
    """Take scores [M, N] and their keys [E, N] into the running softmax of scores * scale."""
    new_maximum = tl.maximum(maximum, tl.max(scores, 1))
    # A row that has seen no key yet has a maximum of -inf: subtract 0 instead.
    shift = tl.where(new_maximum == float("-inf"), 0.0, new_maximum * scale)
    weights = tl.exp2(scores * scale - shift[:, None])
    shrink = tl.exp2(maximum * scale - shift)
    total = total * shrink + tl.sum(weights, 1)
    weighted = weighted * shrink[:, None]
    weighted = tl.dot(weights.to(keys.dtype), tl.trans(keys), weighted, input_precision="ieee")
    return new_maximum, total, weighted


# One program for all batches and queues: of these none makes it a faster one.
ANY = ["rows", "queue_size", "span", "group_size"]


@triton.jit(do_not_specialize=ANY)
def itc_partials_kernel(
    rows_ptr,
    packed_ptr,
    temperature_ptr,
    maximum_ptr,
    total_ptr,
    weighted_ptr,
    rows,
    queue_size,
    width,
    span,
    group_size,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
    STEP_E: tl.constexpr,
    STAGES: tl.constexpr,
):
    """A tile of rows of one kind against `span` tiles; results lie [kind, slice, row]."""
    row_tiles = tl.cdiv(rows, BLOCK_M)
    kind = tl.program_id(0) // row_tiles
    m = tl.program_id(0) % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    e, n, m_mask = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N), m < rows
    rows_ptr += (kind * row_tiles).to(tl.int64) * BLOCK_M * BLOCK_E
    held = m
    if STEP_E == 0:
        held = tl.load(rows_ptr + m.to(tl.int64)[:, None] * BLOCK_E + e[None, :])
    # exp(s / temperature) = 2 ** (s * scale)
    temperature = tl.load(temperature_ptr).to(tl.float32)
    scale = LOG2_E / temperature
    maximum = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)

    whole, queue_tiles = queue_size // BLOCK_N, tl.cdiv(queue_size, BLOCK_N)
    first = tl.program_id(1) * span
    last = tl.minimum(first + span, queue_tiles + tl.cdiv(rows, BLOCK_N))
    for tile in tl.range(first, last, num_stages=STAGES):
        tile_ptr = packed_ptr + tl.cast(tile, tl.int64) * BLOCK_E * BLOCK_N
        scores, keys = _scores(held, rows_ptr, m, tile_ptr, BLOCK_N, BLOCK_E, STEP_E)
        if tile >= whole:
            # The queue's last keys, or keys of the batch, of which rows see their group's.
            number, key = tile * BLOCK_N + n, (tile - queue_tiles) * BLOCK_N + n
            own_group = m[:, None] // group_size == key[None, :] // group_size
            visible = own_group & ((key >= 0) & (key < rows))[None, :]
            visible = visible | ((tile < queue_tiles) & (number < queue_size))[None, :]
            scores = tl.where(visible, scores, float("-inf"))
        maximum, total, weighted = _fold(scores, keys, scale, maximum, total, weighted)

    place = (kind * tl.num_programs(1) + tl.program_id(1)).to(tl.int64) * rows + m
    tl.store(maximum_ptr + place, maximum / temperature, m_mask)
    tl.store(total_ptr + place, total, m_mask)
    mask = m_mask[:, None] & (e < width)[None, :]
    tl.store(weighted_ptr + place[:, None] * width + e[None, :], weighted, mask)


@triton.jit(do_not_specialize=ANY)
def itc_positives_kernel(
    packed_ptr,
    query_ids_ptr,
    key_ids_ptr,
    queue_ids_ptr,
    total_ptr,
    weighted_ptr,
    rows,
    queue_size,
    width,
    span,
    group_size,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """Number and sum of a tile of rows' positives among `span` tiles; results lie [slice, row]."""
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    e, n, m_mask = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_N), m < rows
    ids = tl.load(query_ids_ptr + m, m_mask, 0)
    total = tl.zeros((BLOCK_M,), tl.float32)
    weighted = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    queue_tiles = tl.cdiv(queue_size, BLOCK_N)
    first = tl.program_id(1) * span
    last = tl.minimum(first + span, queue_tiles + tl.cdiv(rows, BLOCK_N))
    for tile in tl.range(first, last, num_stages=1):
        if tile < queue_tiles:
            key = tile * BLOCK_N + n
            theirs = tl.load(queue_ids_ptr + key, key < queue_size, 0)
            visible = (key < queue_size)[None, :] & m_mask[:, None]
        else:
            key = (tile - queue_tiles) * BLOCK_N + n
            theirs = tl.load(key_ids_ptr + key, key < rows, 0)
            visible = (m[:, None] // group_size == key[None, :] // group_size) & (key < rows)[None]
        match = (visible & (ids[:, None] == theirs[None, :])).to(tl.float32)
        found = tl.sum(match, 1)
        # Most tiles have no positive, and their keys need not be looked at.
        if tl.max(found, 0) > 0:
            tile_ptr = packed_ptr + tl.cast(tile, tl.int64) * BLOCK_E * BLOCK_N
            keys = tl.load(tile_ptr + e[:, None] * BLOCK_N + n[None, :])
            total += found
            weighted = tl.dot(
                match.to(keys.dtype), tl.trans(keys), weighted, input_precision="ieee"
            )
    place = tl.program_id(1).to(tl.int64) * rows + m
    tl.store(total_ptr + place, total, m_mask)
    mask = m_mask[:, None] & (e < width)[None, :]
    tl.store(weighted_ptr + place[:, None] * width + e[None, :], weighted, mask)


@cache
def slices_of(row_tiles: int, tiles: int, places: int) -> int:
    """Slices of the keys, the number that ends soonest.

    Args:
        row_tiles: of both kinds.
        tiles: of keys.
        places: programs that run at once; a wave of them takes as long as its tiles of keys and
            two more, in which a program starts and stores.
    """
    most = max(1, min(tiles // 4, triton.cdiv(2 * places, row_tiles)))
    waves = {s: triton.cdiv(row_tiles * s, places) for s in range(1, most + 1)}
    return min(waves, key=lambda s: (waves[s] * (triton.cdiv(tiles, s) + 2), s))


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
    """As `streaming.loss_and_gradients`, products in `dtype`; three kernels, four with ids."""
    (rows, width), device, queue_size = query_BE.shape, query_BE.device, len(queue_QE)
    dtype = dtype if dtype in TILES else torch.float32
    query, momentum_query, keys = (
        t.detach().contiguous() for t in (query_BE, momentum_query_BE, keys_BE)
    )
    block_e = max(16, triton.next_power_of_2(width))
    by = tiles_of(dtype, block_e, _room(device))
    both, packed = pack(
        query, momentum_query, keys, queue_QE.detach(), dtype,
        block_m=by.rows, block_n=by.keys, block_e=block_e,
    )  # fmt: skip
    blocks = {"BLOCK_M": by.rows, "BLOCK_N": by.keys, "BLOCK_E": block_e}
    row_tiles, tiles = triton.cdiv(rows, by.rows), len(packed)
    slices = slices_of(2 * row_tiles, tiles, by.resident * _processors(device))
    span = triton.cdiv(tiles, slices)
    slices = triton.cdiv(tiles, span)
    kinds = 2 if query_ids is None else 3
    maximum = torch.empty(2, slices, rows, device=device)
    total = torch.empty(kinds, slices, rows, device=device)
    weighted = torch.empty(*total.shape, width, device=device)
    sizes = (rows, queue_size, width, span, group_size)
    itc_partials_kernel[(2 * row_tiles, slices)](
        both,
        packed,
        temperature.detach(),
        maximum,
        total,
        weighted,
        *sizes,
        **blocks,
        STEP_E=min(by.step, block_e),
        STAGES=by.stages,
        num_warps=by.warps,
    )
    if query_ids is not None:
        ids = (i.contiguous() for i in (query_ids, key_ids, queue_ids))
        itc_positives_kernel[(triton.cdiv(rows, POSITIVES_M), slices)](
            packed,
            *ids,
            total[2],
            weighted[2],
            *sizes,
            **blocks | {"BLOCK_M": POSITIVES_M},
            num_warps=POSITIVES_WARPS,
        )
    running = (maximum, total, weighted)
    return merge(query, keys, temperature, alpha, running, dtype=dtype)


@cache
def _processors(device: torch.device) -> int:
    """Of the GPU; in the interpreter some, so that it takes the same way."""
    if device.type != "cuda":
        return 3
    return torch.cuda.get_device_properties(device).multi_processor_count


@cache
def _room(device: torch.device) -> int:
    """Bytes of shared memory that a program may take; in the interpreter any number."""
    if device.type != "cuda":
        return sys.maxsize
    return triton.runtime.driver.active.utils.get_device_properties(device.index)["max_shared_mem"]
