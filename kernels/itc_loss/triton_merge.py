"""What running softmaxes over slices of the keys come to: losses and gradients, in Triton."""

import torch
import triton
import triton.language as tl

# Four keep too few registers a thread for Triton 3.6, which then spills.
WARPS = 2


@triton.jit
def _merged(
    maximum_ptr, total_ptr, weighted_ptr, row, rows, slices, width, e, BLOCK_S: tl.constexpr
):
    """Maximum, total and weighted sum [E] of one row over all slices."""
    s = tl.arange(0, BLOCK_S)
    maxima = tl.load(maximum_ptr + s * rows + row, s < slices, float("-inf"))
    maximum = tl.max(maxima, 0)
    totals = tl.load(total_ptr + s * rows + row, s < slices, 0.0)
    total = tl.sum(totals * tl.exp(maxima - maximum), 0)
    weighted = tl.zeros((e.shape[0],), tl.float32)
    for part in range(slices):
        scale = tl.exp(tl.load(maximum_ptr + part * rows + row) - maximum)
        place = (part * rows + row).to(tl.int64) * width + e
        weighted += scale * tl.load(weighted_ptr + place, e < width, 0.0)
    return maximum, total, weighted


@triton.jit
def itc_merge_kernel(
    rows_ptr,
    keys_ptr,
    temperature_ptr,
    alpha_ptr,
    maximum_ptr,
    total_ptr,
    weighted_ptr,
    loss_ptr,
    by_query_ptr,
    by_temperature_ptr,
    rows,
    slices,
    width,
    HAS_IDS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    """One row: its slices to its loss and gradients; see `streaming` for the formulas."""
    row = tl.program_id(0)
    e = tl.arange(0, BLOCK_E)
    e_mask = e < width
    own = row.to(tl.int64) * width + e
    temperature = tl.load(temperature_ptr).to(tl.float32)
    alpha = tl.load(alpha_ptr).to(tl.float32)
    kind = slices * rows
    maximum, total, weighted = _merged(
        maximum_ptr, total_ptr, weighted_ptr, row, rows, slices, width, e, BLOCK_S
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
    )
    if HAS_IDS:
        s = tl.arange(0, BLOCK_S)
        count = tl.sum(tl.load(total_ptr + (2 * slices + s) * rows + row, s < slices, 0.0), 0)
        positive = tl.zeros((BLOCK_E,), tl.float32)
        for part in range(slices):
            place = ((2 * slices + part) * rows + row).to(tl.int64) * width + e
            positive += tl.load(weighted_ptr + place, e_mask, 0.0)
        positive /= count
    else:
        positive = tl.load(keys_ptr + own, e_mask, 0.0).to(tl.float32)
    target = alpha * soft_weighted / soft_total + (1 - alpha) * positive
    gradient = (weighted / total - target) / temperature
    query = tl.load(rows_ptr + own, e_mask, 0.0).to(tl.float32)
    tl.store(loss_ptr + row, maximum + tl.log(total) - tl.sum(query * target, 0) / temperature)
    tl.store(by_query_ptr + own, gradient, e_mask)
    tl.store(by_temperature_ptr + row, -tl.sum(query * gradient, 0) / temperature)


def merge(
    query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    temperature: torch.Tensor,
    alpha: torch.Tensor | float,
    running: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    has_ids: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows' losses [B], gradients by the queries [B, E] and temperature [B], float32.

    Args:
        query_BE: contiguous.
        keys_BE: contiguous; row i's positive where there are no ids.
        temperature: 0-dim.
        alpha: weight of the soft targets.
        running: maximum and total [kinds, slices, B] and weighted sum of keys
            [kinds, slices, B, E], float32; kinds are online and soft, and with ids the number
            and sum of the positives.
        has_ids: there is a third kind.
    """
    maximum, total, weighted = running
    slices, (rows, width), device = maximum.shape[1], query_BE.shape, query_BE.device
    losses = torch.empty(rows, device=device)
    by_query, by_temperature = torch.empty(rows, width, device=device), torch.empty_like(losses)
    itc_merge_kernel[(rows,)](
        query_BE,
        keys_BE,
        temperature.detach(),
        torch.as_tensor(alpha, dtype=torch.float32, device=device),
        maximum,
        total,
        weighted,
        losses,
        by_query,
        by_temperature,
        rows,
        slices,
        width,
        HAS_IDS=has_ids,
        BLOCK_S=triton.next_power_of_2(slices),
        BLOCK_E=triton.next_power_of_2(width),
        num_warps=WARPS,
    )
    return losses, by_query, by_temperature
