"""The momentum update, the gather, and what joined operations are not for."""

import pytest
import torch

from kernels import add_norm, all_gather, ema_, linear_gelu


def test_ema_is_the_weighted_sum() -> None:
    targets = [torch.randn(5, 3), torch.randn(())]
    sources = [torch.randn(5, 3), torch.randn(())]
    expected = [0.995 * t + (1 - 0.995) * s for t, s in zip(targets, sources, strict=True)]
    ema_(targets, sources, 0.995)
    for got, want in zip(targets, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)


def test_ema_of_equal_weights_changes_nothing() -> None:
    weight = torch.randn(1000)
    target = weight.clone()
    ema_([target], [weight], 0.995)
    assert torch.equal(target, weight)


def test_ema_refuses_lists_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="1 targets but 0 sources"):
        ema_([torch.zeros(1)], [], 0.5)


def test_one_process_gathers_itself() -> None:
    tensor = torch.randn(2, 3)
    assert all_gather(tensor) is tensor


def test_float64_is_not_computed_in_float32() -> None:
    states, ones = torch.randn(2, 16, dtype=torch.float64), torch.ones(16, dtype=torch.float64)
    for call in (
        lambda: linear_gelu(states, torch.diag(ones), ones, backend="triton"),
        lambda: add_norm(states, states, ones, ones, 1e-5, backend="triton"),
    ):
        with pytest.raises(RuntimeError, match="'triton' cannot run here: it computes in float32"):
            call()
