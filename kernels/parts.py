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
