"""Sums of which every program of a launch has a part: whoever ends last adds them up.

A launch of its own for that takes a GPU longer than most of these sums. Parts are added in one
order, so runs give the same bits.
"""

import torch
import triton
import triton.language as tl

# Parts that are read at once, and sums of a launch. Each round waits for the memory anew; of 256
# columns by 256 threads, more than 32 parts would take registers from what a kernel does before.
TOGETHER = 32
MOST = 4096
# Programs of a group, and numbers of a thread that are read at once where whole rows are parts.
GROUP = tl.constexpr(16)
NUMBERS = 64


@triton.jit
def ends_last(counter_ptr: tl.tensor, programs: tl.tensor) -> tl.tensor:
    """Whether all other programs that count here have stored their parts; counts them out again."""
    # All threads of this program have stored theirs, and one of them tells the others' programs.
    tl.debug_barrier()
    last = tl.atomic_add(counter_ptr, 1, sem="acq_rel") == programs - 1
    if last:
        tl.store(counter_ptr, 0)
    return last


@triton.jit
def sum_of_parts(
    parts_ptr: tl.tensor,
    parts: tl.tensor,
    width: tl.tensor,
    n: tl.tensor,
    n_mask: tl.tensor,
    TOGETHER: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> tl.tensor:
    """Columns n of [parts, width], added up."""
    total = tl.zeros((BLOCK_N,), tl.float32)
    for start in range(0, parts, TOGETHER):
        p = start + tl.arange(0, TOGETHER)
        mask = (p < parts)[:, None] & n_mask[None, :]
        # Past the first cache, which does not see what other processors write.
        places = p[:, None] * width + n[None, :]
        total += tl.sum(tl.load(parts_ptr + places, mask, 0.0, cache_modifier=".cg"), 0)
    return total


@triton.jit
def _sum_of_rows(
    rows_ptr: tl.tensor,
    rows: tl.tensor,
    sums_ptr: tl.tensor,
    width: tl.tensor,
    KINDS: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Of [rows, KINDS, width] to [KINDS, width]."""
    d = tl.arange(0, BLOCK_D)
    for kind in tl.static_range(KINDS):
        total = tl.zeros((BLOCK_D,), tl.float32)
        for start in range(0, rows, TOGETHER):
            row = start + tl.arange(0, TOGETHER)
            mask = (row < rows)[:, None] & (d < width)[None, :]
            places = (row[:, None] * KINDS + kind) * width + d[None, :]
            total += tl.sum(tl.load(rows_ptr + places, mask, 0.0, cache_modifier=".cg"), 0)
        tl.store(sums_ptr + kind * width + d, total, d < width)


@triton.jit
def sum_in_groups(
    parts_ptr: tl.tensor,
    counters_ptr: tl.tensor,
    sums_ptr: tl.tensor,
    width: tl.tensor,
    KINDS: tl.constexpr,
    TOGETHER: tl.constexpr,
    BLOCK_D: tl.constexpr,
) -> None:
    """Several sums of whole rows, one row a program: for one alone to add up there are too many.

    Whoever ends last of a group adds its rows, and whoever of the groups theirs.

    Args:
        parts_ptr: [`rows_of_parts`, KINDS, width] float32, of which every program has stored the
            row of its number.
        counters_ptr: `counters`.
        sums_ptr: [KINDS, width] float32.
        width: of a row, at most BLOCK_D.
        KINDS: of sums.
        TOGETHER: see `together`.
        BLOCK_D: a power of 2.
    """
    programs, group = tl.num_programs(0), tl.program_id(0) // GROUP
    groups = tl.cdiv(programs, GROUP)
    size = tl.minimum(programs - group * GROUP, GROUP)
    own, found = parts_ptr + group * GROUP * KINDS * width, parts_ptr + programs * KINDS * width
    if ends_last(counters_ptr + 1 + group, size):
        to = found + group * KINDS * width
        _sum_of_rows(own, size, to, width, KINDS, TOGETHER, BLOCK_D)
        if ends_last(counters_ptr, groups):
            _sum_of_rows(found, groups, sums_ptr, width, KINDS, TOGETHER, BLOCK_D)


def rows_of_parts(programs: int) -> int:
    """That `sum_in_groups` needs: of programs and of their groups."""
    return programs + triton.cdiv(programs, GROUP.value)


def together(block: int, warps: int) -> int:
    """Rows that `sum_in_groups` reads at once, with so many warps a program."""
    return max(1, min(GROUP.value, NUMBERS * 32 * warps // block))


# By device and stream, whose launches follow one another. Never freed: recordings point to them.
_COUNTERS: dict[tuple[torch.device, int], torch.Tensor] = {}


def counters(device: torch.device) -> torch.Tensor:
    """[MOST] zeros for `ends_last`, which leaves them zeros, one for each sum of a launch."""
    on_gpu = device.type == "cuda"
    where = (device, torch.cuda.current_stream(device).cuda_stream if on_gpu else 0)
    if where in _COUNTERS:
        return _COUNTERS[where]
    zeros = torch.zeros(MOST, dtype=torch.int32, device=device)
    # What is allocated while a stream is recorded belongs to the recording alone.
    if not (on_gpu and torch.cuda.is_current_stream_capturing()):
        _COUNTERS[where] = zeros
    return zeros
