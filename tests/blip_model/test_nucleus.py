"""The nucleus without a full sort: the definition's bits, ties and flat distributions included."""

import pytest
import torch

from blip_model.nucleus import _best, inverse_draw, nucleus_probabilities

WORDS = 4000


def by_definition(logits: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """All tokens in order, one row after the other; those alike in the order of their numbers."""
    rows = []
    for row in logits:
        if top_k:
            order = row.sort(descending=True, stable=True).indices
            row = row.index_fill(0, order[top_k:], float("-inf"))
        probabilities = row.softmax(0)
        ordered, order = probabilities.sort(descending=True, stable=True)
        before = torch.cat([torch.zeros(1), ordered.cumsum(0)[:-1]])
        rows.append(probabilities.index_fill(0, order[before >= top_p], 0.0))
    kept = torch.stack(rows)
    return kept / kept.sum(1, keepdim=True)


def spread_over(kind: str, generator: torch.Generator) -> torch.Tensor:
    """[5, V] logits."""
    logits = torch.randn(5, WORDS, generator=generator)
    if kind == "peaked":
        logits = logits * torch.tensor([[3.0], [4.0], [5.0], [6.0], [9.0]])
    if kind == "bf16":
        logits = (logits * 4).bfloat16().float()
    if kind == "few values":
        logits = (logits * 2).round() * 2
    if kind == "all alike":
        logits = torch.zeros(5, WORDS)
    if kind == "one":
        logits = logits.index_fill(1, torch.tensor([7]), 60.0)
    if kind == "mixed":
        logits = logits * torch.tensor([[0.1], [1.0], [4.0], [8.0], [20.0]])
    if kind == "forbidden":
        logits = (logits * 5).masked_fill(torch.rand(WORDS, generator=generator) < 0.5, -torch.inf)
    return logits


@pytest.mark.parametrize(
    "kind",
    ["peaked", "flat", "bf16", "few values", "all alike", "one", "mixed", "forbidden"],
)
def test_the_bits_are_the_definitions(kind: str) -> None:
    generator = torch.Generator().manual_seed(len(kind))
    for _ in range(2):
        logits = spread_over(kind, generator)
        for top_p in (0.3, 0.9, 0.999, 1 - 1e-6, 1.0):
            found = nucleus_probabilities(logits, top_p, 0)
            assert torch.equal(found, by_definition(logits, top_p, 0))


@pytest.mark.parametrize("top_k", [1, 40, WORDS - 1, WORDS, 2 * WORDS])
def test_the_best_k_are_those_of_the_definition(top_k: int) -> None:
    for kind in ("peaked", "flat"):
        logits = spread_over(kind, torch.Generator().manual_seed(top_k))
        found = nucleus_probabilities(logits, 0.9, top_k)
        assert torch.equal(found, by_definition(logits, 0.9, top_k))


def test_the_draws_are_those_of_a_full_sort_in_the_order_of_logits() -> None:
    """Before, all logits were sorted first: a rounding apart, with the same tokens."""
    generator = torch.Generator().manual_seed(0)
    for kind in ("peaked", "bf16", "flat"):
        logits = spread_over(kind, generator)
        best, index = logits.sort(dim=1, descending=True, stable=True)
        ordered = best.softmax(1)
        ordered = ordered.masked_fill(ordered.cumsum(1) - ordered >= 0.9, 0.0)
        before = torch.zeros_like(logits).scatter(1, index, ordered)
        found = nucleus_probabilities(logits, 0.9, 0)
        torch.testing.assert_close(found, before / before.sum(1, keepdim=True))
        for _ in range(200):
            numbers = torch.rand(5, generator=generator, dtype=torch.float64)
            assert torch.equal(inverse_draw(found, numbers), inverse_draw(before, numbers))


@pytest.mark.parametrize(
    ("kind", "top_p", "few"),
    [
        ("one", 0.999, True),
        ("few values", 0.9, True),
        ("forbidden", 0.9, True),
        ("flat", 0.3, False),
        ("mixed", 0.9, False),
        ("one", 1.0, False),
    ],
)
def test_all_are_sorted_only_where_many_may_count(kind: str, top_p: float, few: bool) -> None:
    probabilities = spread_over(kind, torch.Generator().manual_seed(1)).softmax(1)
    assert (_best(probabilities, top_p).shape[1] < WORDS) == few
