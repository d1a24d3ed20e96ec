"""Pictures of many sizes resized in Triton: two passes over all of them, however many there are."""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.resize.filter import BITS, columns_first, cubic_taps, taps_of
from kernels.transfer import sent

BLOCK, WARPS = 1024, 4
# Numbers that tell a program about its picture.
TOLD = 8


@triton.jit
def resize_kernel(
    in_ptr, taps_ptr, told_ptr, out_ptr, size, PLANAR: tl.constexpr, BITS: tl.constexpr,
    TOLD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A part of one picture filtered along its lines or its columns; the second pass of two writes
    one colour behind the other."""
    told = told_ptr + tl.program_id(1) * TOLD
    # A picture's own bytes are counted in 32 bits, all pictures' are not.
    count = tl.load(told + 2).to(tl.int32)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK < count:
        source, target = in_ptr + tl.load(told), out_ptr + tl.load(told + 1)
        columns, stride = tl.load(told + 3).to(tl.int32), tl.load(told + 4).to(tl.int32)
        taps, many = taps_ptr + tl.load(told + 5), tl.load(told + 6).to(tl.int32)
        by_row = tl.load(told + 7) != 0
        mask = element < count
        if PLANAR:
            colour, row, column = element // size // size, element // size % size, element % size
        else:
            colour, row, column = element % 3, element // 3 // columns, element // 3 % columns
        along = tl.where(by_row, row, column)
        first = tl.load(taps + along, mask, 0)
        step = tl.where(by_row, stride, 3)
        place = tl.where(by_row, column * 3, row * stride) + first * step + colour
        total = tl.full([BLOCK], 1 << (BITS - 1), tl.int32)
        for number in range(many):
            weight = tl.load(taps + (1 + number) * size + along, mask, 0)
            # Only lines outside the picture have no weight, or those that add nothing.
            value = tl.load(source + place + number * step, mask & (weight != 0), 0)
            total += value.to(tl.int32) * weight
        value = tl.minimum(tl.maximum(total >> BITS, 0), 255)
        tl.store(target + element, value.to(tl.uint8), mask)


def forward(pixels: torch.Tensor, sides: Sequence[tuple[int, int]], size: int) -> torch.Tensor:
    """See `resize`."""
    out = pixels.new_empty(len(sides), 3, size, size)
    if not sides:
        return out
    lengths = sorted({length for both in sides for length in both})
    taps = max(taps_of(length, size) for length in lengths)
    table_at = {length: n * (1 + taps) * size for n, length in enumerate(lengths)}
    told: tuple[list[list[int]], list[list[int]]] = [], []
    place = between = 0
    for number, (height, width) in enumerate(sides):
        by_row = columns_first(height, width, size)
        rows, columns = (size, width) if by_row else (height, size)
        made, ways = 3 * rows * columns, ((height, 1), (width, 0))
        (one, one_by), (other, other_by) = ways if by_row else ways[::-1]
        first = [place, between, made, columns, 3 * width, table_at[one]]
        told[0].append([*first, taps_of(one, size), one_by])
        view = 3 * size * size
        second = [between, number * view, view, size, 3 * columns, table_at[other]]
        told[1].append([*second, taps_of(other, size), other_by])
        place, between = place + 3 * height * width, between + made
    facts, inside = (sent(torch.tensor(numbers), pixels.device) for numbers in (told, lengths))
    tables = cubic_taps(inside, size, taps)
    middle = pixels.new_empty(between)
    for number, (source, target) in enumerate(((pixels, middle), (middle, out))):
        largest = max(row[2] for row in told[number])
        resize_kernel[(triton.cdiv(largest, BLOCK), len(sides))](
            source,
            tables,
            facts[number],
            target,
            size,
            PLANAR=number == 1,
            BITS=BITS,
            TOLD=TOLD,
            BLOCK=BLOCK,
            num_warps=WARPS,
        )
    return out
