"""One hard negative a row, drawn on the device for the whole batch."""

import torch

from kernels.backend import choose, triton_problem
from kernels.hard_negatives.reference import negative_weights


def draw_hard_negatives(
    query_BE: torch.Tensor,
    keys_BE: torch.Tensor,
    temperature: torch.Tensor,
    *,
    seed: int,
    group_keys: torch.Tensor | None = None,
    floor: float = 1e-4,
    ids: torch.Tensor | None = None,
    group_size: int | None = None,
    greedy: bool = False,
    backend: str = "auto",
) -> torch.Tensor:
    """For each query the index of a non-matching key of its group, likely a similar one.

    Weights are softmax(q k / tau) over the group's keys plus `floor`, zero for the row's own key
    and for keys of the same id (the original BLIP's ITM sampling). The draw is a function of
    (seed, group key) alone, so it does not depend on which rank or position holds a group.

    Args:
        query_BE: [B, E].
        keys_BE: [B, E].
        temperature: 0-dim, > 0.
        seed: non-negative.
        group_keys: [B / group_size] int64 names of the groups; None numbers them from 0.
        floor: added to every weight before matching keys are removed.
        ids: [B] int64; equal ids match.
        group_size: rows that draw among each other; None means the whole batch.
        greedy: take the largest weight instead of drawing.
        backend: `triton`, `torch` or `auto`.

    Returns:
        [B] int64 indices into the batch.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, an empty batch.
        RuntimeError: a forced backend that cannot run here.
    """
    if query_BE.ndim != 2 or not len(query_BE) or keys_BE.shape != query_BE.shape:
        raise ValueError(
            f"draw_hard_negatives: queries {tuple(query_BE.shape)} and keys "
            f"{tuple(keys_BE.shape)} must both be [B, E] with B > 0"
        )
    size = group_size or len(query_BE)
    if len(query_BE) % size:
        raise ValueError(f"draw_hard_negatives: {len(query_BE)} rows are not groups of {size}")
    groups = len(query_BE) // size
    if group_keys is None:
        group_keys = torch.arange(groups, device=query_BE.device)
    if len(group_keys) != groups:
        raise ValueError(f"draw_hard_negatives: {len(group_keys)} group keys for {groups} groups")
    _check_kinds(query_BE, keys_BE, temperature, group_keys, ids)
    problems = {
        "triton": triton_problem(query_BE) if query_BE.is_cuda or backend == "triton" else "CPU",
        "torch": None,
    }
    with torch.no_grad(), torch.autocast(query_BE.device.type, enabled=False):
        if not greedy and choose("hard_negatives", backend, problems, query_BE) == "triton":
            return _by_kernel(query_BE, keys_BE, temperature, seed, group_keys, floor, ids, size)
        weights = negative_weights(query_BE, keys_BE, temperature, floor, ids, size)
        scores = weights.log()
        if not greedy:
            scores = scores + _gumbel(seed, group_keys, size)
        first_row = torch.arange(groups, device=query_BE.device)[:, None] * size
        return (scores.argmax(2) + first_row).flatten()


@torch.library.custom_op("kernels::draw_hard_negatives", mutates_args=())
def _by_kernel(
    query: torch.Tensor,
    keys: torch.Tensor,
    temperature: torch.Tensor,
    seed: int,
    group_keys: torch.Tensor,
    floor: float,
    ids: torch.Tensor | None,
    group_size: int,
) -> torch.Tensor:
    """One operation, which `torch.compile` does not look into."""
    from kernels.hard_negatives import triton_kernels

    return triton_kernels.draw(query, keys, temperature, seed, group_keys, floor, ids, group_size)


@_by_kernel.register_fake
def _shape(query: torch.Tensor, *_: object) -> torch.Tensor:
    return query.new_empty(len(query), dtype=torch.int64)


def _check_kinds(
    query: torch.Tensor,
    keys: torch.Tensor,
    temperature: torch.Tensor,
    group_keys: torch.Tensor,
    ids: torch.Tensor | None,
) -> None:
    """Of dtypes and devices, and the sizes of temperature and ids."""
    if temperature.ndim:
        raise ValueError(
            f"draw_hard_negatives: temperature {tuple(temperature.shape)} must be 0-dim"
        )
    if ids is not None and ids.shape != query.shape[:1]:
        raise ValueError(f"draw_hard_negatives: ids {tuple(ids.shape)} must be [{len(query)}]")
    if not (query.is_floating_point() and keys.is_floating_point()):
        raise ValueError(
            f"draw_hard_negatives: queries {query.dtype} and keys {keys.dtype} must be floating"
        )
    whole = {"group_keys": group_keys} | ({} if ids is None else {"ids": ids})
    for name, tensor in whole.items():
        if tensor.dtype != torch.int64:
            raise ValueError(f"draw_hard_negatives: {name} must be int64, not {tensor.dtype}")
    devices = {str(tensor.device) for tensor in (query, keys, temperature, *whole.values())}
    if len(devices) > 1:
        names = ", ".join(sorted(devices))
        raise ValueError(f"draw_hard_negatives: inputs on different devices: {names}")


def _gumbel(seed: int, group_keys: torch.Tensor, size: int) -> torch.Tensor:
    """Gumbel noise [groups, G, G] from a counter: the same for a group wherever it lies.

    Two rounds of a 64-bit mixer (splitmix64's finaliser) over (seed, group, row, column); torch's
    int64 arithmetic wraps around as it needs.
    """
    cells = torch.arange(size * size, device=group_keys.device).view(1, size, size)
    state = _mix(cells + _mix(group_keys.view(-1, 1, 1) + _mix_int(seed)))
    uniform = ((state >> 11) & ((1 << 52) - 1)).double() / float(1 << 52)
    uniform = uniform.clamp(min=1e-16, max=1 - 1e-16)
    return -(-uniform.log()).log().float()


def _mix(value: torch.Tensor) -> torch.Tensor:
    value = value * -7046029254386353131
    value = (value ^ _shift(value, 30)) * -4658895280553007687
    value = (value ^ _shift(value, 27)) * -7723592293110705685
    return value ^ _shift(value, 31)


def _shift(value: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift: torch's own keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix_int(seed: int) -> int:
    """`_mix` of a number that the host knows, without a tensor that it would have to read."""
    value = seed * -7046029254386353131 % (1 << 64)
    value = (value ^ (value >> 30)) * -4658895280553007687 % (1 << 64)
    value = (value ^ (value >> 27)) * -7723592293110705685 % (1 << 64)
    value ^= value >> 31
    return value - (1 << 64) if value >> 63 else value
