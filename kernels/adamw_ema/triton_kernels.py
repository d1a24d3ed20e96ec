"""AdamW with followers in Triton: one launch for all tensors, through a table of their places.

The table has a line for each tensor, [weight, gradient, first, second, follower, copy, follower's
copy, length], addresses and a count; a second one says for each program which tensor it works on
and from where.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl

from kernels.transfer import sent

BLOCK, WARPS = 1024, 8
# Addresses that are multiples of this many bytes are read in the largest pieces.
ALIGNMENT = 16


@triton.jit
def adamw_ema_kernel(
    table_ptr,
    programs_ptr,
    factors_ptr,
    new_first,
    old_second,
    new_second,
    eps,
    new_follower,
    ALIGNED: tl.constexpr,
    COPY: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK elements of one tensor."""
    tensor = tl.load(programs_ptr + 2 * tl.program_id(0))
    first = tl.load(programs_ptr + 2 * tl.program_id(0) + 1)
    line = table_ptr + tensor * 8
    length = tl.load(line + 7)
    rates = (new_first, old_second, new_second, eps, new_follower)
    if ALIGNED:
        first = tl.multiple_of(first, 16)
    places = first + tl.arange(0, BLOCK)
    # A mask against a length that is not known would break the reads into single numbers.
    if tl.load(factors_ptr + 4) != 0.0:
        if first + BLOCK <= length:
            _update(line, places, None, factors_ptr, rates, ALIGNED, COPY)
        else:
            _update(line, places, places < length, factors_ptr, rates, ALIGNED, COPY)


@triton.jit
def _update(line, places, mask, factors_ptr, rates, ALIGNED: tl.constexpr, COPY: tl.constexpr):
    new_first, old_second, new_second, eps, new_follower = rates
    scale = tl.load(factors_ptr)
    decay = tl.load(factors_ptr + 1)
    step_size = tl.load(factors_ptr + 2)
    root = tl.load(factors_ptr + 3)
    # All addresses, then all reads, before any write: none waits for another's numbers.
    follower, copy, behind_copy = tl.load(line + 4), tl.load(line + 5), tl.load(line + 6)
    weight_ptr = _pointers(tl.load(line), places, tl.float32, ALIGNED)
    gradient_ptr = _pointers(tl.load(line + 1), places, tl.float32, ALIGNED)
    moment_ptr = _pointers(tl.load(line + 2), places, tl.float32, ALIGNED)
    square_ptr = _pointers(tl.load(line + 3), places, tl.float32, ALIGNED)
    follower_ptr = _pointers(follower, places, tl.float32, ALIGNED)
    gradient = tl.load(gradient_ptr, mask)
    weight = tl.load(weight_ptr, mask)
    moment = tl.load(moment_ptr, mask)
    square = tl.load(square_ptr, mask)
    behind = weight
    if follower != 0:
        behind = tl.load(follower_ptr, mask)
    gradient *= scale
    weight -= decay * weight
    moment += new_first * (gradient - moment)
    square = old_second * square + new_second * gradient * gradient
    weight -= step_size * moment / (tl.sqrt(square) / root + eps)
    tl.store(moment_ptr, moment, mask)
    tl.store(square_ptr, square, mask)
    tl.store(weight_ptr, weight, mask)
    if copy != 0:
        tl.store(_pointers(copy, places, COPY, ALIGNED), weight.to(COPY), mask)
    if follower != 0:
        behind += new_follower * (weight - behind)
        tl.store(follower_ptr, behind, mask)
        if behind_copy != 0:
            tl.store(_pointers(behind_copy, places, COPY, ALIGNED), behind.to(COPY), mask)


@triton.jit
def _pointers(address, places, TYPE: tl.constexpr, ALIGNED: tl.constexpr):
    """To elements of a tensor; what is known of an address does not survive becoming a pointer."""
    pointers = address.to(tl.pointer_type(TYPE)) + places
    if ALIGNED:
        pointers = tl.multiple_of(pointers, 16)
    return pointers


def update_(
    weights: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first_moments: list[torch.Tensor],
    second_moments: list[torch.Tensor],
    followers: list[torch.Tensor | None],
    copies: list[torch.Tensor | None],
    follower_copies: list[torch.Tensor | None],
    factors: torch.Tensor,
    betas: tuple[float, float],
    eps: float,
    momentum: float,
) -> None:
    """As `adamw_ema_reference`, in one launch.

    Raises:
        ValueError: weights, moments or followers that are not float32.
    """
    device = weights[0].device
    gradients = [gradient.contiguous() for gradient in gradients]
    moments, behind = (first_moments, second_moments), follower_copies
    lists = (weights, gradients, *moments, followers, copies, behind)
    whole = {t.dtype for part in lists[:5] for t in part if t is not None}
    kinds = {copy.dtype for copy in (*copies, *behind) if copy is not None}
    if whole != {torch.float32} or len(kinds) > 1 or not kinds <= {torch.bfloat16, torch.float16}:
        raise ValueError(
            f"adamw_ema_: {sorted(map(str, whole))} with copies in {sorted(map(str, kinds))}: "
            "triton takes float32, and copies in bfloat16 or float16"
        )
    lines = [
        [0 if t is None else t.data_ptr() for t in tensors] + [tensors[0].numel()]
        for tensors in zip(*lists, strict=True)
    ]
    aligned = all(address % ALIGNMENT == 0 for line in lines for address in line[:-1])
    programs = _programs(tuple(line[-1] for line in lines), device)
    if not len(programs):
        return
    # 1 - beta is taken here, in double precision: of 1 - 0.999 float32 keeps four digits.
    adamw_ema_kernel[(len(programs),)](
        sent(torch.tensor(lines, dtype=torch.int64), device),
        programs,
        factors,
        1 - betas[0],
        betas[1],
        1 - betas[1],
        eps,
        1 - momentum,
        ALIGNED=aligned,
        COPY=tl.float16 if torch.float16 in kinds else tl.bfloat16,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )


@lru_cache(maxsize=8)
def _programs(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """[programs, 2] int64: the tensor a program works on, and its first element there."""
    counts = -(-torch.tensor(lengths) // BLOCK)
    tensors = torch.arange(len(lengths)).repeat_interleave(counts)
    firsts = torch.arange(len(tensors)) - (counts.cumsum(0) - counts)[tensors]
    return torch.stack([tensors, firsts * BLOCK], 1).to(device)
