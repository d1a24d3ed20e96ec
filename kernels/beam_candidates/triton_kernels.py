"""The best next tokens of a beam in Triton: its logits stay in the registers of one program."""

import torch
import triton
import triton.language as tl

from kernels.beam_candidates.reference import Candidates

# Logits of a part of a row, and warps of a program of 32 parts.
LANES, WARPS = 1024, 16


@triton.jit
def beam_candidates_kernel(
    logits_ptr,
    running_ptr,
    ids_ptr,
    lengths_ptr,
    scores_ptr,
    tokens_ptr,
    vocabulary,
    width,
    penalty,
    end,
    min_length,
    HAS_PENALTY: tl.constexpr,
    COUNT: tl.constexpr,
    PARTS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """The COUNT best of one row, one after the other; alike, the one of smaller number first."""
    row = tl.program_id(0).to(tl.int64)
    # Places are compared by part and lane: a register holds one part's, whichever thread's it is.
    r, c = tl.arange(0, PARTS)[:, None], tl.arange(0, LANES)[None, :]
    inside = r * LANES + c < vocabulary
    scores = tl.load(logits_ptr + row * vocabulary + r * LANES + c, inside, float("-inf"))
    scores -= tl.max(scores)
    scores -= tl.log(tl.sum(tl.exp(scores)))
    length = tl.load(lengths_ptr + row).to(tl.int32)
    if HAS_PENALTY:
        place = tl.arange(0, BLOCK_L)
        for number in range(length):
            token = tl.load(ids_ptr + row * width + number).to(tl.int32)
            before = tl.load(ids_ptr + row * width + place, place < number, -1)
            # Once, however often it is there. Logarithms of probabilities are never positive.
            factor = tl.where(tl.sum((before == token).to(tl.int32), 0) == 0, penalty, 1.0)
            is_there = (r == token // LANES) & (c == token % LANES)
            scores = tl.where(is_there, scores * factor, scores)
    is_end = (r == end // LANES) & (c == end % LANES)
    scores = tl.where(is_end & (length < min_length), float("-inf"), scores)
    scores += tl.load(running_ptr + row)
    for number in range(COUNT):
        best = tl.max(scores)
        part = tl.min(tl.where(scores == best, r, PARTS))
        lane = tl.min(tl.where((scores == best) & (r == part), c, LANES))
        tl.store(scores_ptr + row * COUNT + number, best)
        token = tl.minimum(part * LANES + lane, vocabulary - 1)
        tl.store(tokens_ptr + row * COUNT + number, token.to(tl.int64))
        scores = tl.where((r == part) & (c == lane), float("-inf"), scores)


def candidates(
    logits: torch.Tensor,
    running: torch.Tensor,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    *,
    end: int,
    min_length: int,
    penalty: float,
) -> Candidates:
    """As `beam_candidates`: the best of a picture are among the best of each of its beams."""
    rows, vocabulary = logits.shape
    slots, beams = running.shape
    count = 2 * beams
    scores = torch.empty(rows, count, device=logits.device)
    tokens = torch.empty(rows, count, dtype=torch.int64, device=logits.device)
    parts = max(2, triton.next_power_of_2(triton.cdiv(vocabulary, LANES)))
    if rows:
        beam_candidates_kernel[(rows,)](
            logits.contiguous(),
            running.contiguous(),
            ids.contiguous(),
            lengths.contiguous(),
            scores,
            tokens,
            vocabulary,
            ids.shape[1],
            penalty,
            end,
            min_length,
            HAS_PENALTY=penalty != 1.0,
            COUNT=count,
            PARTS=parts,
            LANES=LANES,
            BLOCK_L=triton.next_power_of_2(ids.shape[1]),
            num_warps=max(4, parts * WARPS // 32),
        )
    top, index = scores.view(slots, -1).topk(count, 1)
    return top, index // count, tokens.view(slots, -1).gather(1, index)
