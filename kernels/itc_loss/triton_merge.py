"""What running softmaxes over slices of the keys come to: loss and gradients, in Triton."""

import torch
import triton
import triton.language as tl

from kernels.parts import counters, ends_last

WARPS = 8
# Slices that are read at once, and rows whose losses are.
TOGETHER, ROWS = 16, 1024
TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}


@triton.jit
def _added(
    weighted_ptr, maximum_ptr, maximum, row, rows, slices, width, e,
    SCALED: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Sums [E] of one row over all slices, each relative to its own maximum, or as they are."""
    sums = tl.zeros((TOGETHER, e.shape[0]), tl.float32)
    for start in range(0, slices, TOGETHER):
        part = start + tl.arange(0, TOGETHER)
        places = part.to(tl.int64) * rows + row
        mask = (part < slices)[:, None] & (e < width)[None, :]
        some = tl.load(weighted_ptr + places[:, None] * width + e[None, :], mask, 0.0)
        if SCALED:
            own = tl.load(maximum_ptr + places, part < slices, float("-inf"))
            some *= tl.exp(own - maximum)[:, None]
        sums += some
    return tl.sum(sums, 0)


@triton.jit
def _merged(
    maximum_ptr, total_ptr, weighted_ptr, row, rows, slices, width, e,
    BLOCK_S: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """Maximum, total and weighted sum [E] of one row over all slices."""
    s = tl.arange(0, BLOCK_S)
    maxima = tl.load(maximum_ptr + s * rows + row, s < slices, float("-inf"))
    maximum = tl.max(maxima, 0)
    totals = tl.load(total_ptr + s * rows + row, s < slices, 0.0)
    total = tl.sum(totals * tl.exp(maxima - maximum), 0)
    weighted = _added(
        weighted_ptr, maximum_ptr, maximum, row, rows, slices, width, e, True, TOGETHER
    )
    return maximum, total, weighted


@triton.jit(do_not_specialize=["rows", "slices"])
def itc_merge_kernel(
    query_ptr,
    keys_ptr,
    temperature_ptr,
    alpha_ptr,
    maximum_ptr,
    total_ptr,
    weighted_ptr,
    by_row_ptr,
    by_query_ptr,
    loss_ptr,
    by_temperature_ptr,
    counters_ptr,
    rows,
    slices,
    width,
    HAS_IDS: tl.constexpr,
    DTYPE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr,
):
    """One row: its slices to its loss and gradients (see `streaming`); the last adds rows up."""
    row = tl.program_id(0)
    e = tl.arange(0, BLOCK_E)
    e_mask = e < width
    own = row.to(tl.int64) * width + e
    temperature = tl.load(temperature_ptr).to(tl.float32)
    alpha = tl.load(alpha_ptr).to(tl.float32)
    kind = slices * rows
    maximum, total, weighted = _merged(
        maximum_ptr, total_ptr, weighted_ptr, row, rows, slices, width, e, BLOCK_S, TOGETHER
    )
    _, soft_total, soft_weighted = _merged(
        maximum_ptr + kind,
        total_ptr + kind,
        weighted_ptr + kind * width,
        row,
        rows,
        slices,
        width,
        e,
        BLOCK_S,
        TOGETHER,
    )
    if HAS_IDS:
        total_ptr, weighted_ptr = total_ptr + 2 * kind, weighted_ptr + 2 * kind * width
        s = tl.arange(0, BLOCK_S)
        count = tl.sum(tl.load(total_ptr + s * rows + row, s < slices, 0.0), 0)
        positive = _added(
            weighted_ptr, maximum_ptr, maximum, row, rows, slices, width, e, False, TOGETHER
        )
        positive /= count
    else:
        # As the products saw it, and the query below.
        positive = tl.load(keys_ptr + own, e_mask, 0.0).to(DTYPE).to(tl.float32)
    target = alpha * soft_weighted / soft_total + (1 - alpha) * positive
    gradient = (weighted / total - target) / temperature
    query = tl.load(query_ptr + own, e_mask, 0.0).to(DTYPE).to(tl.float32)
    tl.store(by_query_ptr + own, gradient / rows, e_mask)
    loss = maximum + tl.log(total) - tl.sum(query * target, 0) / temperature
    tl.store(by_row_ptr + row, loss)
    tl.store(by_row_ptr + rows + row, -tl.sum(query * gradient, 0) / temperature)
    if ends_last(counters_ptr, rows):
        losses, by_temperature = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
        for start in range(0, rows, ROWS):
            r = start + tl.arange(0, ROWS)
            # Past the first cache, which does not see what other processors write.
            losses += tl.load(by_row_ptr + r, r < rows, 0.0, cache_modifier=".cg")
            by_temperature += tl.load(by_row_ptr + rows + r, r < rows, 0.0, cache_modifier=".cg")
        tl.store(loss_ptr, tl.sum(losses, 0) / rows)
        tl.store(by_temperature_ptr, tl.sum(by_temperature, 0) / rows)


def merge(
    query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    temperature: torch.Tensor,
    alpha: torch.Tensor | float,
    running: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean loss, and its gradients by the queries [B, E] and the temperature, float32.

    Args:
        query_BE: contiguous, of any dtype.
        keys_BE: contiguous; row i's positive where there are no ids.
        temperature: 0-dim.
        alpha: weight of the soft targets.
        running: maximum [2, slices, B], total [kinds, slices, B] and weighted sum of keys
            [kinds, slices, B, E], float32; kinds are online and soft, and with ids the number
            and sum of the positives.
        dtype: that the products took queries and keys in.
    """
    maximum, total, weighted = running
    slices, (rows, width), device = maximum.shape[1], query_BE.shape, query_BE.device
    if not isinstance(alpha, torch.Tensor):
        alpha = torch.full((), alpha, device=device)
    by_query = torch.empty(rows, width, device=device)
    by_row, loss = torch.empty(2, rows, device=device), torch.empty((), device=device)
    by_temperature = torch.empty_like(loss)
    block_s = triton.next_power_of_2(slices)
    itc_merge_kernel[(rows,)](
        query_BE,
        keys_BE,
        temperature.detach(),
        alpha.to(device),
        maximum,
        total,
        weighted,
        by_row,
        by_query,
        loss,
        by_temperature,
        counters(device),
        rows,
        slices,
        width,
        HAS_IDS=len(total) == 3,
        DTYPE=TYPES[dtype],
        BLOCK_S=block_s,
        TOGETHER=min(block_s, TOGETHER),
        BLOCK_E=triton.next_power_of_2(width),
        ROWS=ROWS,
        num_warps=WARPS,
    )
    return loss, by_query, by_temperature
