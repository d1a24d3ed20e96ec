"""Dropout on a CPU: how many elements are dropped, where, and what becomes of the others."""

import math

import pytest
import torch
import torch.nn.functional as F

from kernels import dropout

KINDS = [torch.float32, torch.bfloat16]


def dropped(shape: tuple[int, ...], probability: float, seed: int = 0) -> torch.Tensor:
    """Which of so many elements are dropped."""
    torch.manual_seed(seed)
    return dropout(torch.ones(shape), probability) == 0


@pytest.mark.parametrize("probability", [0.001, 0.1, 0.5, 0.9])
def test_as_many_are_dropped_as_the_probability_says(probability: float) -> None:
    where = dropped((1000, 1000), probability)
    deviation = math.sqrt(probability * (1 - probability) / where.numel())
    # Four deviations, and the multiple of 2**-16 that is drawn by.
    assert abs(where.float().mean() - probability) < 4 * deviation + 2**-17


def test_elements_are_dropped_apart() -> None:
    """Those decided by the same 64 bits, neighbours and rows are as if drawn one by one."""
    where = dropped((1024, 1024), 0.5).float() * 2 - 1
    limit = 5 / math.sqrt(where.numel())
    for apart in (1, 2, 3, 4, 1024):
        flat = where.flatten()
        assert (flat[apart:] * flat[:-apart]).mean().abs() < limit
    for lane in range(4):
        assert where.flatten()[lane::4].mean().abs() < 2 * limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 5, 7)])
def test_what_stays_is_scaled_as_pytorch_scales_it(
    shape: tuple[int, ...], kind: torch.dtype
) -> None:
    x = torch.randn(shape).to(kind)
    kept = 0
    for _ in range(50):
        found, theirs = dropout(x, 0.25), F.dropout(x, 0.25)
        assert found.dtype == kind and found.shape == x.shape
        both = (found != 0) & (theirs != 0)
        kept += int(both.sum())
        # A quarter is a multiple of 2**-16.
        assert torch.equal(found[both], theirs[both])
    assert kept > 0


def test_gradients_are_dropped_and_scaled_alike() -> None:
    x = torch.randn(40, 50, requires_grad=True)
    upstream = torch.randn(40, 50)
    found = dropout(x, 0.3)
    found.backward(upstream)
    torch.testing.assert_close(x.grad * x.detach(), found.detach() * upstream)


def test_a_seed_repeats_the_draws_and_a_step_does_not() -> None:
    first, again, other = (dropped((64, 64), 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    torch.manual_seed(1)
    ones = torch.ones(64, 64)
    assert not torch.equal(dropout(ones, 0.5), dropout(ones, 0.5))


def test_nothing_to_drop_draws_nothing() -> None:
    x, before = torch.randn(5), torch.get_rng_state()
    assert dropout(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), before)
    assert dropout(torch.empty(0, 3), 0.5).shape == (0, 3)


@pytest.mark.parametrize("probability", [-0.1, 1.0, math.nan])
def test_other_probabilities_are_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        dropout(torch.ones(3), probability)


def test_almost_certain_is_finite() -> None:
    assert dropout(torch.ones(1000), 1 - 2**-20).isfinite().all()
