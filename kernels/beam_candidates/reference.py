"""The best ways in which the beams of a picture go on, by their definition."""

import torch

from kernels.token_scores import shaped

Candidates = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def beam_candidates_reference(
    logits: torch.Tensor,
    running: torch.Tensor,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    *,
    end: int,
    min_length: int,
    penalty: float,
) -> Candidates:
    """All scores of a picture's beams beside one another, and the best of them."""
    settings = {"end": end, "min_length": min_length, "penalty": penalty}
    scores = shaped(logits.log_softmax(1), ids, lengths, **settings)
    (slots, beams), vocabulary = running.shape, logits.shape[1]
    scores = scores.view(slots, -1) + running.repeat_interleave(vocabulary, 1)
    top, index = scores.topk(2 * beams, 1)
    return top, index // vocabulary, index % vocabulary
