"""Nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from blip_model.config import BlipConfig
from blip_model.token_scores import shaped

# Of a float32 in [0, 1], whose sign bit is 0: exponent and 8 bits of the mantissa tell its bin.
DROPPED_BITS = 15
BINS = (0x3F800000 >> DROPPED_BITS) + 1
# Rows that fit a core's cache go together.
ROWS = 8
Edge = tuple[torch.Tensor, torch.Tensor]
FindEdge = Callable[[torch.Tensor, float], Edge]


@dataclass(frozen=True, kw_only=True)
class Nucleus:
    """How captions are sampled.

    Args:
        top_p: tokens are drawn from the fewest that hold this probability, in (0, 1].
        top_k: and from so many at most; 0 sets no limit.
        temperature: divides the logits.
        max_length: in tokens, prompt included.
        min_length: before [SEP] may come, prompt included.
        repetition_penalty: divides the odds of tokens that are there already (the original: 1.1).
        samples: captions a picture.
    """

    top_p: float = 0.9
    top_k: int = 0
    temperature: float = 1.0
    max_length: int = 20
    min_length: int = 5
    repetition_penalty: float = 1.1
    samples: int = 1

    @property
    def rows(self) -> int:
        """Captions in work a picture."""
        return self.samples

    def start(self, config: BlipConfig, slots: int, device: torch.device) -> "Sampled":
        """Room for captions of `slots` pictures."""
        return Sampled(self, config, slots, device)


class Sampled:
    """Captions in work, `samples` a slot.

    Args:
        how: they are sampled.
        config: of the network.
        slots: S.
        device: of the captions.
    """

    def __init__(self, how: Nucleus, config: BlipConfig, slots: int, device: torch.device) -> None:
        self.how, self.config = how, config
        shape = (slots, how.samples, how.max_length)
        self._ids = torch.full(shape, config.pad_token_id, device=device)
        self._uniforms = torch.zeros(shape, dtype=torch.float64, device=device)
        self._done = torch.zeros(shape[:2], dtype=torch.bool, device=device)

    def begin(
        self, slots: torch.Tensor, prompt_ids: torch.Tensor, uniforms: torch.Tensor | None
    ) -> None:
        """New pictures in slots [N]: prompts [N, L], numbers [N, samples, max_length]."""
        if uniforms is None:
            raise ValueError("nucleus sampling needs numbers to draw by")
        self._ids[slots] = self.config.pad_token_id
        self._ids[slots, :, : prompt_ids.shape[1]] = prompt_ids[:, None]
        self._uniforms[slots] = uniforms
        self._done[slots] = False

    def choose(
        self, logits: torch.Tensor, places: torch.Tensor
    ) -> tuple[torch.Tensor, None, torch.Tensor]:
        """The next token of every row.

        Args:
            logits: [S * samples, V].
            places: [S] of the next token.

        Returns:
            Tokens [S * samples]; None, as every row goes on by itself; [S] bool, which slots ended.
        """
        how, config, at = self.how, self.config, places.repeat_interleave(self.how.samples)
        ids = self._ids.flatten(0, 1)
        settings = {"min_length": how.min_length, "penalty": how.repetition_penalty}
        scores = shaped(logits, ids, at, end=config.sep_token_id, **settings)
        probabilities = nucleus_probabilities(scores / how.temperature, how.top_p, how.top_k)
        numbers = self._uniforms.flatten(0, 1).gather(1, at[:, None])[:, 0]
        tokens = inverse_draw(probabilities, numbers)
        tokens = tokens.masked_fill(self._done.flatten(), config.pad_token_id)
        ids.scatter_(1, at[:, None], tokens[:, None])
        self._done |= (tokens == config.sep_token_id).view_as(self._done)
        return tokens, None, self._done.all(1) | (places + 1 >= how.max_length)

    def result(self, slots: torch.Tensor) -> torch.Tensor:
        """[N, samples, max_length] ids, prompt included, padded after [SEP]."""
        return self._ids[slots]

    def keep(self, slots: torch.Tensor) -> None:
        """Go on with these slots [K] only, in this order."""
        self._ids, self._uniforms, self._done = (
            part[slots] for part in (self._ids, self._uniforms, self._done)
        )


def inverse_draw(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The token [N] at which the distribution function of [N, V] first exceeds a number [N].

    Args:
        probabilities: non-negative; those of a row need not add up to one.
        uniforms: float64 in [0, 1), at most 1 - 2**-32.
    """
    below = probabilities.double().cumsum(1)
    return torch.searchsorted(below, uniforms[:, None] * below[:, -1:], right=True)[:, 0]


def nucleus_probabilities(logits: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """Probabilities [N, V] restricted to the nucleus: the fewest tokens that hold `top_p`.

    Of tokens alike at its edge those of smaller number belong to it.
    """
    if top_k and top_k < logits.shape[1]:
        among = torch.zeros_like(logits, dtype=torch.bool)
        among.scatter_(1, logits.topk(top_k, 1).indices, True)
        logits = logits.masked_fill(~among, float("-inf"))
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.cat([_within(rows, edge_by_bins, top_p) for rows in logits.split(ROWS)])
    return _within(logits, edge_by_order, top_p)


def _within(logits: torch.Tensor, find_edge: FindEdge, top_p: float) -> torch.Tensor:
    probabilities = logits.softmax(1)
    least, room = find_edge(probabilities, top_p)
    # By value: in which order sorting leaves those alike is not said.
    above, alike = probabilities > least, probabilities == least
    kept = above | (alike & (alike.cumsum(1) <= room))
    probabilities = probabilities.masked_fill(~kept, 0.0)
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
    best = probabilities.masked_fill(~inside, 0.0).topk(int(sizes.max()), 1).values
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
