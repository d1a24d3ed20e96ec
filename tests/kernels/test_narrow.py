"""Norms that are written in two dtypes at once, and the gradients that come back through both."""

import pytest
import torch

from kernels import add_norm, parted, rounded
from kernels.add_norm.narrow import joined
from tests.kernels.test_layer_ops import CUT, random

SHAPE, LOW = (5, 7, 24), torch.bfloat16


def tensors() -> list[torch.Tensor]:
    """Residual, branch in the narrower dtype, weight and bias."""
    leaves = random(SHAPE, SHAPE, SHAPE[-1:], SHAPE[-1:])
    leaves[1] = leaves[1].to(LOW)
    return [leaf.requires_grad_() for leaf in leaves]


def normed(leaves: list[torch.Tensor]) -> torch.Tensor:
    return add_norm(*leaves, 1e-6, narrow_dtype=LOW, backend="triton")[1]


def test_it_is_the_norm_in_the_other_dtype_and_no_cast() -> None:
    wide = normed(tensors())
    low = rounded(wide, LOW)
    assert low is rounded(wide, LOW) and low.dtype == LOW
    assert (low.float() - wide).abs().max() <= (2**-9 + CUT) * wide.abs().max()
    assert rounded(wide, torch.float32) is wide
    assert rounded(wide, torch.float16).dtype == torch.float16
    wide.mul_(2)
    assert torch.equal(rounded(wide, LOW), wide.to(LOW))


def test_it_is_there_for_inference_too() -> None:
    with torch.inference_mode():
        wide = normed(tensors())
        assert rounded(wide, LOW) is rounded(wide, LOW)


@pytest.mark.parametrize("used", ["both", "narrow"])
def test_gradients_through_both_add_up_as_through_a_cast(used: str) -> None:
    found = []
    upstream, narrow = random(SHAPE, (*SHAPE, 1))
    narrow = narrow[..., 0].to(LOW)
    for cast in (False, True):
        leaves = tensors()
        wide = normed(leaves)
        low = wide.to(LOW) if cast else rounded(wide, LOW)
        outputs, gradients = [low, wide], [narrow, upstream]
        count = 1 if used == "narrow" else 2
        found.append(torch.autograd.grad(outputs[:count], leaves, gradients[:count]))
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


def test_rows_are_joined_and_parted_with_what_is_written_beside_them() -> None:
    one, other = (normed(tensors()).flatten(0, 1) for _ in range(2))
    assert torch.equal(rounded(one, LOW), one.to(LOW))
    first, second = (normed([t[:size] if t.ndim == 3 else t for t in tensors()]) for size in (2, 3))
    whole = joined([first, second])
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(rounded(whole, LOW), torch.cat([rounded(first, LOW), rounded(second, LOW)]))
    for part, want in zip(parted(whole, [2, 3]), (first, second), strict=True):
        assert torch.equal(part, want)
        assert torch.equal(rounded(part, LOW), rounded(want, LOW))
    plain = joined([first, other.view(SHAPE)])
    assert torch.equal(rounded(plain, LOW), plain.to(LOW))
