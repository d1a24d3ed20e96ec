"""The nucleus of a distribution and a token drawn from it, by their definition."""

from collections.abc import Callable

import torch
from torch.nn import functional

# Of a float32 in [0, 1], whose sign bit is 0: exponent and 6 bits of the mantissa tell its bin.
DROPPED_BITS = 17
BINS = (0x3F800000 >> DROPPED_BITS) + 1
# Rows that fit a core's cache go together.
ROWS = 8
Edge = tuple[torch.Tensor, torch.Tensor]
FindEdge = Callable[[torch.Tensor, float], Edge]


def inverse_draw(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token [N] at which the distribution function of [N, V] first exceeds a number [N].

    Args:
        probabilities: non-negative; those of a row need not add up to one.
        uniforms: float64 in [0, 1), at most 1 - 2**-32.
    """
    below = probabilities.double().cumsum(1)
    found = torch.searchsorted(below, uniforms[:, None] * below[:, -1:], right=True)[:, 0]
    # Clamped: what a network that is broken gives is exceeded nowhere.
    return found.clamp_(max=probabilities.shape[1] - 1)


def nucleus_probabilities(logits: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """Probabilities [N, V] restricted to the nucleus: the fewest tokens that hold `top_p`.

    Of tokens alike at its edge those of smaller number belong to it.
    """
    logits = best_logits(logits, top_k)
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.cat([_within(rows, edge_by_bins, top_p) for rows in logits.split(ROWS)])
    return _within(logits, edge_by_order, top_p)


def best_logits(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    """[N, V] with all but the `top_k` best of each row forbidden; 0 sets no limit."""
    if not top_k or top_k >= logits.shape[1]:
        return logits
    among = torch.zeros_like(logits, dtype=torch.bool)
    among.scatter_(1, logits.topk(top_k, 1).indices, True)
    return logits.masked_fill(~among, float("-inf"))


def _within(logits: torch.Tensor, find_edge: FindEdge, top_p: float) -> torch.Tensor:
    probabilities = logits.softmax(1)
    least, room = find_edge(probabilities, top_p)
    # By value: in which order sorting leaves those alike is not said.
    above, alike = probabilities > least, probabilities == least
    kept = above | (alike & (alike.cumsum(1) <= room))
    # A CPU takes twice as long to fill by a mask.
    probabilities = torch.where(kept, probabilities, 0.0)
    return probabilities / probabilities.sum(1, keepdim=True)


def edge_by_order(probabilities: torch.Tensor, top_p: float) -> Edge:
    """The least probability in the nucleus [N, 1], and how many that are equal to it belong [N, 1].

    By definition: all of [N, V] in order.
    """
    return _edge(probabilities.sort(1, descending=True).values, top_p)


def edge_by_bins(probabilities: torch.Tensor, top_p: float) -> Edge:
    """The same for float32 on a CPU, where sorting a vocabulary is slow.

    Probabilities are counted into bins by their leading bits, which are in their order. The edge
    lies in the bin in which `top_p` is reached, and only inside of that one order matters. Sums are
    of other order than the definition's, so an edge that is met exactly may round the other way.
    """
    # Clamped: a network that is broken gives NaN, which has bits above those of 1.
    bins = (probabilities.view(torch.int32) >> DROPPED_BITS).clamp_(0, BINS - 1).long()
    mass = probabilities.new_zeros(len(bins), BINS).scatter_add_(1, bins, probabilities)
    above = functional.pad(mass.flip(1).cumsum(1).flip(1)[:, 1:], (0, 1))
    # The lowest one that holds something, and not all of it is too much.
    border = ((above < top_p) & (mass != 0)).byte().argmax(1, keepdim=True)
    inside = bins == border
    sizes = inside.sum(1, keepdim=True)
    best = torch.where(inside, probabilities, 0.0).topk(int(sizes.max()), 1).values
    return _edge(best, top_p, above.gather(1, border), sizes)


def _edge(
    best: torch.Tensor,
    top_p: float,
    before: torch.Tensor | float = 0.0,
    sizes: torch.Tensor | None = None,
) -> Edge:
    """Of probabilities in order, from what those before them hold; rows may end early."""
    # So many hold too little, and one more.
    count = (before + best.cumsum(1)[:, :-1] < top_p).sum(1, keepdim=True) + 1
    if sizes is not None:
        count = torch.minimum(count, sizes)
    least = best.gather(1, count - 1)
    return least, count - (best > least).sum(1, keepdim=True)
