"""Scores of ranked candidates against their definitions, written out."""

import math
from itertools import permutations

import numpy as np
import pytest

from engine.evaluation.candidate_ranks import ndcg, rank_metrics, ranks


def challenge_ndcg(order: list[int], relevance: np.ndarray) -> float:
    """Of one order of candidates, as the challenge defines it."""
    k = int((relevance > 0).sum())
    best = sorted(relevance.tolist(), reverse=True)

    def dcg(gains: list[float]) -> float:
        return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains[:k], 1))

    return dcg([relevance[place] for place in order]) / dcg(best)


@pytest.mark.parametrize("seed", range(3))
def test_without_ties_they_are_those_of_the_one_order(seed: int) -> None:
    draw = np.random.default_rng(seed)
    scores, right = draw.normal(size=20).astype(np.float32), int(draw.integers(20))
    relevance = draw.choice([0, 0, 0, 0.2, 0.5, 1], 20)
    order = sorted(range(20), key=lambda place: -scores[place])
    rank = order.index(right) + 1
    found = rank_metrics(scores, right)
    assert found == pytest.approx(
        {f"r{k}": float(rank <= k) for k in (1, 5, 10)} | {"mrr": 1 / rank, "mean_rank": rank}
    )
    assert ndcg(scores, relevance) == pytest.approx(challenge_ndcg(order, relevance))
    given = ranks(scores)
    assert sorted(given) == list(range(1, 21))
    assert [given[place] for place in order] == list(range(1, 21))


def test_equal_scores_count_as_the_mean_of_their_orders() -> None:
    scores = np.array([1, 2, 2, 0, 2, 1])
    relevance = np.array([0.5, 0, 1, 0, 0.25, 0])
    orders = [p for p in permutations(range(6)) if all(np.diff(scores[list(p)]) <= 0)]
    assert len(orders) == 12
    places = np.array([order.index(2) + 1 for order in orders])
    found = rank_metrics(scores, 2)
    assert found["r1"] == pytest.approx((places <= 1).mean())
    assert found["mrr"] == pytest.approx((1 / places).mean())
    assert found["mean_rank"] == pytest.approx(places.mean())
    means = [challenge_ndcg(list(order), relevance) for order in orders]
    assert ndcg(scores, relevance) == pytest.approx(np.mean(means))
    assert ranks(scores) == [4, 1, 2, 6, 3, 5]


def test_a_perfect_order_has_the_best_of_each() -> None:
    relevance = np.array([0, 0.4, 1, 0])
    assert ndcg(relevance, relevance) == pytest.approx(1)
    found = rank_metrics(relevance, 2)
    assert (found["r1"], found["mrr"], found["mean_rank"]) == (1, 1, 1)
    blind = rank_metrics(np.zeros(100), 7)
    assert (blind["r5"], blind["mean_rank"]) == (pytest.approx(0.05), 50.5)
