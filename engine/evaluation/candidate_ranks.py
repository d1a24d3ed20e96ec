"""Scores of ranked candidates. Equal scores count as in random order: what is expected of it."""

import numpy as np

KS = (1, 5, 10)


def rank_metrics(scores: np.ndarray, right: int) -> dict[str, float]:
    """Recall at k, reciprocal rank and rank of the right one of some candidates.

    Args:
        scores: [candidates], finite.
        right: place of the right one.

    Returns:
        r1, r5 and r10, mrr, and mean_rank from 1; means over orders of equal scores.
    """
    above = int((scores > scores[right]).sum())
    equal = int((scores == scores[right]).sum())
    ranks = np.arange(above + 1, above + equal + 1)
    recalls = {f"r{k}": float((ranks <= k).mean()) for k in KS}
    return {**recalls, "mrr": float((1 / ranks).mean()), "mean_rank": float(ranks.mean())}


def ndcg(scores: np.ndarray, relevance: np.ndarray) -> float:
    """Normalised discounted cumulative gain as VisDial's challenge has it.

    Of the first k candidates, as many as have any relevance: sum(relevance / log2(1 + rank)), as a
    share of the best order's.

    Args:
        scores: [candidates], finite.
        relevance: [candidates], not all 0.
    """
    places = np.arange(len(scores))
    relevant = np.count_nonzero(relevance)
    discounts = np.where(places < relevant, 1 / np.log2(places + 2), 0.0)
    before = np.concatenate([[0.0], np.cumsum(discounts)])
    above = (scores[:, None] < scores).sum(1)
    equal = (scores[:, None] == scores).sum(1)
    expected = (before[above + equal] - before[above]) / equal
    best = (np.sort(relevance)[::-1] * discounts).sum()
    return float((relevance * expected).sum() / best)


def ranks(scores: np.ndarray) -> list[int]:
    """Rank of each candidate, from 1; of equal scores those come first that stand first."""
    order = np.argsort(-scores, kind="stable")
    found = np.empty(len(scores), np.int64)
    found[order] = np.arange(1, len(scores) + 1)
    return found.tolist()
