"""The nucleus without a sort: the fewest tokens, ties included, and what is drawn."""

import pytest
import torch

from kernels import nucleus_draw
from kernels.nucleus_draw.reference import (
    edge_by_bins,
    edge_by_order,
    inverse_draw,
    nucleus_probabilities,
)

WORDS = 4000
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


KINDS = ["peaked", "flat", "bf16", "few values", "all alike", "one", "mixed", "forbidden"]
SHARES = (0.3, 0.9, 0.999, 1 - 1e-6, 1.0)


def check(logits: torch.Tensor, kept: torch.Tensor, top_p: float) -> None:
    """Kept are the first in order, those alike by number, and no fewer than hold `top_p`."""
    for row, found in zip(logits.softmax(1), kept, strict=True):
        ordered, order = row.sort(descending=True, stable=True)
        count = int((found > 0).sum())
        assert count >= 1
        assert (found[order[:count]] > 0).all()
        held = ordered.double().cumsum(0)
        assert held[count - 1] >= top_p - 1e-5
        assert count == 1 or held[count - 2] < top_p + 1e-5
        expected = ordered[:count] / ordered[:count].sum()
        torch.testing.assert_close(found[order[:count]], expected)


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


@pytest.mark.parametrize("kind", KINDS)
def test_the_fewest_that_hold_enough_are_kept(kind: str) -> None:
    generator = torch.Generator().manual_seed(len(kind))
    for _ in range(2):
        logits = spread_over(kind, generator)
        for top_p in SHARES:
            check(logits, nucleus_probabilities(logits, top_p, 0), top_p)


@pytest.mark.parametrize("kind", KINDS)
def test_bins_find_the_edge_that_order_finds(kind: str) -> None:
    generator = torch.Generator().manual_seed(len(kind))
    for _ in range(2):
        probabilities = spread_over(kind, generator).softmax(1)
        # No sum of these is met exactly, so that rounding decides nothing.
        for top_p in (0.3, 0.7, 0.9123):
            by_bins, by_order = (
                find(probabilities, top_p) for find in (edge_by_bins, edge_by_order)
            )
            for found, expected in zip(by_bins, by_order, strict=True):
                assert torch.equal(found, expected)


def test_a_row_is_kept_alike_in_any_company() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.cat([spread_over(kind, generator) for kind in KINDS])
    together = nucleus_probabilities(logits, 0.9, 0)
    for number in range(len(logits)):
        alone = nucleus_probabilities(logits[number : number + 1], 0.9, 0)
        assert torch.equal(alone[0], together[number])


def test_a_broken_network_gives_no_token() -> None:
    assert nucleus_probabilities(torch.full((1, 8), float("nan")), 0.5, 0).isnan().all()


@pytest.mark.parametrize("top_k", [1, 40, WORDS - 1, WORDS, 2 * WORDS])
def test_of_the_best_k_the_fewest_are_kept(top_k: int) -> None:
    for kind in ("peaked", "flat"):
        logits = spread_over(kind, torch.Generator().manual_seed(top_k))
        order = logits.sort(dim=1, descending=True, stable=True).indices
        limited = logits.scatter(1, order[:, top_k:], float("-inf"))
        check(limited, nucleus_probabilities(logits, 0.9, top_k), 0.9)


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


def exact_draw(logits: torch.Tensor, uniforms: torch.Tensor, top_p: float) -> list[set[int]]:
    """Tokens that a number may fall on, by sums in float64 and by what float32 may make of them."""
    slack, found = 1e-5, []
    for row, number in zip(logits.softmax(1).double(), uniforms.tolist(), strict=True):
        ordered, order = row.sort(descending=True, stable=True)
        before = ordered.cumsum(0) - ordered
        tokens = set()
        for share in (top_p - slack, top_p, top_p + slack):
            kept = torch.zeros_like(row)
            kept[order] = ordered * (before < share * row.sum())
            below = kept.cumsum(0)
            for shift in (-slack, 0.0, slack):
                wanted = torch.tensor((number + shift) * below[-1].item()).clamp(min=0)
                place = torch.searchsorted(below, wanted.double(), right=True)
                tokens.add(min(int(place), int(kept.nonzero()[-1])))
        found.append(tokens)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_draws_by_the_definition(kind: str) -> None:
    generator = torch.Generator().manual_seed(len(kind))
    same = count = 0
    for top_p in (0.9, 1.0):
        logits = spread_over(kind, generator)[1:4, : WORDS - 3].contiguous()
        numbers = torch.rand(3, generator=generator, dtype=torch.float64)
        there = [tensor.to(DEVICE) for tensor in (logits, numbers)]
        drawn = nucleus_draw(*there, top_p=top_p, backend="triton").tolist()
        for token, allowed in zip(drawn, exact_draw(logits, numbers, top_p), strict=True):
            assert token in allowed
        expected = nucleus_draw(logits, numbers, top_p=top_p, backend="reference").tolist()
        same += sum(a == b for a, b in zip(drawn, expected, strict=True))
        count += len(drawn)
    assert same >= 0.9 * count


def test_the_kernel_cuts_tokens_alike_by_number() -> None:
    """Eight alike of which half are needed: the first four, and each at its quarter."""
    logits = torch.full((4, 10), -9.0)
    logits[:, 1:9] = 30.0
    numbers = torch.tensor([0.0, 0.3, 0.74, 0.76], dtype=torch.float64)
    there = [tensor.to(DEVICE) for tensor in (logits, numbers)]
    for backend in ("triton", "reference"):
        assert nucleus_draw(*there, top_p=0.5, backend=backend).tolist() == [1, 2, 3, 4]


def test_the_kernel_never_leaves_the_vocabulary() -> None:
    logits = torch.tensor([[float("nan")] * 5, [float("-inf")] * 4 + [0.0], [0.0] * 5])
    numbers = torch.full((3,), 1 - 2.0**-32, dtype=torch.float64)
    there = [tensor.to(DEVICE) for tensor in (logits, numbers)]
    drawn = nucleus_draw(*there, top_p=1.0, backend="triton").tolist()
    assert 0 <= drawn[0] < 5
    assert drawn[1:] == [4, 4]


def test_the_best_k_are_drawn_from_by_all_backends() -> None:
    logits = spread_over("flat", torch.Generator().manual_seed(2)).to(DEVICE)
    numbers = torch.linspace(0, 0.99, 5, dtype=torch.float64, device=DEVICE)
    best = logits.topk(3, 1).indices.sort(1).values
    for backend in ("triton", "reference"):
        drawn = nucleus_draw(logits, numbers, top_p=1.0, top_k=3, backend=backend)
        assert (best == drawn[:, None]).any(1).all()


def test_what_does_not_fit_is_refused() -> None:
    logits, numbers = torch.zeros(2, 8), torch.zeros(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="float64 uniforms"):
        nucleus_draw(logits, numbers.float(), top_p=0.9)
    with pytest.raises(ValueError, match=r"must be \[N, V\] and \[N\]"):
        nucleus_draw(logits, numbers[:1], top_p=0.9)
    wide = torch.zeros(1, 2**15 + 1)
    with pytest.raises(RuntimeError, match="wider than 32768"):
        nucleus_draw(wide, numbers[:1], top_p=0.9, backend="triton")
