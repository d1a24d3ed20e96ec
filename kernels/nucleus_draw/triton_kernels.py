"""The nucleus and the draw in Triton: a row stays in the registers of one program.

Nothing is sorted: the value at the edge is found bit by bit, by sums of what is no less. Places,
the last of those alike to it and the token itself, are found in two steps: a part of the row bit
by bit too, then one in it by running sums.
"""

import torch
import triton
import triton.language as tl

# Logits of a part, and warps of a program of 64 parts: a thread keeps two numbers of each part.
LANES, WARPS = 512, 8


@triton.jit
def nucleus_draw_kernel(
    logits_ptr,
    uniforms_ptr,
    tokens_ptr,
    vocabulary,
    top_p,
    PARTS_LOG: tl.constexpr,
    LANES: tl.constexpr,
):
    """One row of at most 2 ** PARTS_LOG parts."""
    c = tl.arange(0, LANES)
    r = tl.arange(0, 1 << PARTS_LOG)[:, None]
    v = r * LANES + c[None, :]
    row_ptr = logits_ptr + tl.program_id(0).to(tl.int64) * vocabulary
    x = tl.load(row_ptr + v, v < vocabulary, float("-inf"))
    weight = tl.exp(x - tl.max(x))
    # Floats from 0 to 1 are in the order of their bits, of which the first two are 0.
    bits = weight.to(tl.int32, bitcast=True)
    wanted = top_p * tl.sum(weight)

    # The largest value that, with all above it, holds enough.
    edge = 0
    for step in range(30):
        tried = edge | (1 << (29 - step))
        held = tl.sum(tl.where(bits >= tried, weight, 0.0))
        edge = tl.where(held >= wanted, tried, edge)

    # The last part, and place in it, before which those alike to it hold too little with those
    # above. Written as one comparison: what a loop does not change would be kept beside the row.
    part = 0
    for step in range(PARTS_LOG):
        tried = part | (1 << (PARTS_LOG - 1 - step))
        held = tl.sum(tl.where(bits >= tl.where(r < tried, edge, edge + 1), weight, 0.0))
        part = tl.where(held < wanted, tried, part)
    held = tl.sum(tl.where(bits >= tl.where(r < part, edge, edge + 1), weight, 0.0))
    weight = tl.where(bits >= tl.where(r <= part, edge, edge + 1), weight, 0.0)
    least = edge.to(tl.float32, bitcast=True)
    alike = tl.sum(tl.where(r == part, weight, 0.0), 0) == least
    beyond = alike & (tl.cumsum(alike.to(tl.int32), 0) > tl.ceil((wanted - held) / least))
    weight = tl.where((r == part) & beyond[None, :], 0.0, weight)

    # The last part, and place in it, before which the nucleus holds no more than the number.
    number = tl.load(uniforms_ptr + tl.program_id(0)) * tl.sum(weight).to(tl.float64)
    part = 0
    for step in range(PARTS_LOG):
        tried = part | (1 << (PARTS_LOG - 1 - step))
        held = tl.sum(tl.where(r < tried, weight, 0.0))
        part = tl.where(held <= number, tried, part)
    number -= tl.sum(tl.where(r < part, weight, 0.0))
    inside = tl.sum(tl.where(r == part, weight, 0.0), 0)
    place = tl.sum((tl.cumsum(inside.to(tl.float64), 0) <= number).to(tl.int32), 0)
    # Where the sum up to a part's end was rounded up and the number lies between, its last token.
    place = tl.minimum(place, tl.max(tl.where(inside > 0, c, 0), 0))
    token = tl.minimum(part * LANES + place, vocabulary - 1)
    tl.store(tokens_ptr + tl.program_id(0), token.to(tl.int64))


def draw(logits: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> torch.Tensor:
    """As `nucleus_draw`."""
    rows, vocabulary = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    parts = max(2, triton.next_power_of_2(triton.cdiv(vocabulary, LANES)))
    if rows:
        nucleus_draw_kernel[(rows,)](
            logits.contiguous(),
            uniforms.contiguous(),
            tokens,
            vocabulary,
            top_p,
            PARTS_LOG=parts.bit_length() - 1,
            LANES=LANES,
            num_warps=max(4, parts * WARPS // 64),
        )
    return tokens
