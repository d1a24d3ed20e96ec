"""Texts brought to few shapes, so that a program made for one fits many batches.

A GPU needs that even without a compiler: the host then never asks it how many tokens there are.
"""

import torch
import torch.nn.functional as F

# Lengths of a batch's longest text are multiples of the first number; capacities are those of a
# part of all places, or of the least step where a batch is small.
LENGTHS, PARTS, LEAST = 4, 64, 32
# Places for the tokens of drawn texts beyond their eighth.
SPARE = 96


def bounded(
    ids: torch.Tensor, mask: torch.Tensor, max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Texts padded to one of few lengths, and one of few capacities for their tokens.

    Both follow from the batch alone, while it is still on the host, so every rank and every
    repeat of a run brings it to the same shape.

    Args:
        ids: [B, L] int64, padded with 0.
        mask: [B, L] int64.
        max_tokens: most tokens of a text.

    Returns:
        ids and mask [B, L' >= L], and a number of tokens, at least as many as there are.
    """
    count, length = ids.shape
    longest = min(up(length, LENGTHS), max(max_tokens, length))
    ids, mask = (F.pad(tensor, (0, longest - length)) for tensor in (ids, mask))
    step = max(LEAST, up(count * max_tokens, PARTS) // PARTS)
    return ids, mask, min(up(int(mask.sum()), step), count * longest)


def room_for_drawn(capacity: int, places: int) -> int:
    """Places for the tokens of as many texts, drawn from those whose tokens `capacity` is for.

    How many the draw takes the device alone knows, and that may be all `places`, twice as many and
    more. Those drawn are about as long as all: of 256 texts a trained network drew 0.92 to 1.08
    times as many tokens. So this is an eighth more than they have, and some for few texts, whose
    mean is uncertain.
    """
    return min(up(capacity + capacity // 8 + SPARE, LEAST), places)


def up(value: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-value // step) * step
