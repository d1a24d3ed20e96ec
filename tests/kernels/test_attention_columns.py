"""Attention's gradients bring the gradients of the biases before it."""

from collections.abc import Callable

import pytest
import torch

from kernels import attention_joined, attention_pictures, by_picture, linear, linears
from tests.kernels.test_columns import Shapes, halved, itself, launches
from tests.kernels.test_layer_ops import random

__all__ = ["launches"]
HEADS, WIDTH, LENGTH = 2, 20, 70
Change = Callable[[torch.Tensor], torch.Tensor]


def joined(backend: str, change: Change = itself, *, frozen: bool = False) -> list[torch.Tensor]:
    """Gradients of the map before attention, in float16 or for the reference in float64: of its
    input, weight and bias."""
    leaves = random((3, LENGTH, 16), (3 * HEADS * WIDTH, 16), (3 * HEADS * WIDTH,))
    dtype = torch.float64 if backend == "reference" else torch.float16
    leaves = [(leaf / 4).half().to(dtype) for leaf in leaves]
    for leaf in leaves[: -1 if frozen else None]:
        leaf.requires_grad_()
    products = change(linear(*leaves, backend=backend))
    out = attention_joined(products, HEADS, backend=backend)
    (upstream,) = random(tuple(out.shape))
    out.backward(upstream.half().to(dtype))
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize(("change", "rows"), [(itself, 3), (halved, 3 * LENGTH)])
def test_a_map_whose_products_attend_adds_up_sums_of_sequences(
    change: Change, rows: int, launches: Shapes
) -> None:
    """If nothing stands between."""
    want, got = joined("reference", change), joined("triton", change)
    assert launches == [(rows, 3 * HEADS * WIDTH)]
    for right, ours in zip(want, got, strict=True):
        assert (ours - right).abs().max() <= 5e-3 * right.abs().max()
    by_query, by_key, by_value = got[2].view(3, -1)
    assert by_query.any() and by_value.any() and by_key.any() == (change is halved)


def test_a_frozen_bias_asks_for_nothing(launches: Shapes) -> None:
    got = joined("triton", frozen=True)
    assert len(got) == 2 and launches == []
    want = joined("triton")
    assert all(torch.equal(one, other) for one, other in zip(got, want[:2], strict=True))


# Tokens that look at each picture, of two tiles, one and none, and at none.
LOOKING, KEYS = (70, 0, 9, 3), 37


def pictures(dropout: float, backend: str, change: Change = itself) -> list[torch.Tensor]:
    """Gradients of keys' and values' weights and biases, and of keys and values themselves."""
    columns = HEADS * WIDTH
    states, query, *leaves = random(
        (len(LOOKING) - 1, KEYS, 16), (sum(LOOKING), HEADS, WIDTH),
        *[(columns, 16), (columns,)] * 2,
    )  # fmt: skip
    leaves = [(leaf / 4).requires_grad_() for leaf in leaves]
    numbers = torch.arange(len(LOOKING)).repeat_interleave(torch.tensor(LOOKING))
    blocks = by_picture(numbers.to(query.device), len(LOOKING) - 1)
    products = linears(states, leaves[::2], leaves[1::2], backend=backend)
    heads = [change(part.unflatten(2, (HEADS, WIDTH))) for part in products]
    torch.manual_seed(7)
    out = attention_pictures(query, *heads, *blocks, dropout=dropout, backend=backend)
    (upstream,) = random(tuple(out.shape))
    return [*torch.autograd.grad(out, [*leaves, *heads], upstream)]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_maps_of_pictures_add_up_sums_of_pictures(dropout: float, launches: Shapes) -> None:
    """What each would add up itself, where nothing stands between."""
    *by_maps, by_keys, by_values = pictures(dropout, "triton")
    assert launches == [(3, 2 * HEADS * WIDTH)]
    own = pictures(dropout, "triton", lambda heads: heads * 1.0)
    assert launches[1:] == [(3 * KEYS, 2 * HEADS * WIDTH)]
    for one, other in zip([*by_maps, by_keys, by_values], own, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)
    assert not by_maps[1].any() and by_maps[3].any()
    torch.testing.assert_close(by_maps[3], by_values.sum((0, 1)).flatten(), rtol=1e-5, atol=2e-5)


def test_sums_of_pictures_are_the_definitions() -> None:
    for one, other in zip(pictures(0.0, "triton"), pictures(0.0, "reference"), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


def test_a_map_of_keys_alone_asks_for_no_sums_of_both(launches: Shapes) -> None:
    """Its gradient is half of what they would come with."""
    states, query, *leaves = random((1, 5, 16), (4, 1, 16), (16, 16), (16,), (16, 16), (16,))
    leaves = [leaf.requires_grad_() for leaf in leaves]
    maps = (linear(states, *leaves[i : i + 2], backend="triton") for i in (0, 2))
    heads = [each.unflatten(2, (1, 16)) for each in maps]
    blocks = by_picture(torch.zeros(4, dtype=torch.int64, device=query.device), 1)
    attention_pictures(query, *heads, *blocks, backend="triton").sum().backward()
    assert launches == [(5, 16)] * 2
