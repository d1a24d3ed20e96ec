"""Attention's gradients bring the gradients of the biases before it."""

from collections.abc import Callable

import pytest
import torch

from kernels import attention_joined, linear
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
    assert all(torch.equal(one, other) for one, other in zip(got, want, strict=False))
