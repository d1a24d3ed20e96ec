"""What is done to the scores of next tokens, however a token is then chosen."""

import torch


def shaped(
    scores: torch.Tensor,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    *,
    end: int,
    min_length: int,
    penalty: float,
) -> torch.Tensor:
    """Penalise tokens that are there already, and forbid the end before `min_length`.

    Args:
        scores: [N, V] logits or log-probabilities.
        ids: [N, L].
        lengths: [N], how many of the ids count, at least one.
        end: token that ends a caption.
        min_length: tokens that come before it, at least.
        penalty: divides positive scores and multiplies negative ones; 1 does nothing (Keskar et
            al. 2019, arXiv:1909.05858, as the original applies it).
    """
    if penalty != 1.0:
        counts = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        ids = torch.where(counts, ids, ids[:, :1])
        there = scores.gather(1, ids)
        there = torch.where(there < 0, there * penalty, there / penalty)
        scores = scores.scatter(1, ids, there)
    early = (lengths < min_length)[:, None]
    is_end = torch.arange(scores.shape[1], device=scores.device) == end
    return scores.masked_fill(early & is_end, float("-inf"))
