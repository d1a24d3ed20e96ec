"""The operations that `torch.compile` does not look into, as PyTorch checks such operations."""

import pytest
import torch

from kernels import draw_hard_negatives, itc_loss, lm_loss
from kernels.hard_negatives import op as negatives
from kernels.itc_loss import one_pass as itc
from kernels.lm_loss import one_pass as lm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


def unit(rows: int, width: int = 16) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, width, device=DEVICE), dim=1)


def turned(rows: torch.Tensor) -> torch.Tensor:
    """The same, its columns side by side in memory."""
    return rows.detach().T.contiguous().T.requires_grad_()


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_contrast(backend: str) -> None:
    torch.manual_seed(0)
    query, soft, keys, queue = unit(6).requires_grad_(), unit(6), unit(6), unit(11)
    temperature = torch.tensor(0.07, device=DEVICE, requires_grad=True)
    alpha = torch.tensor(0.4, dtype=torch.float64, device=DEVICE)
    rest = (soft, keys, queue)
    inputs = (query, temperature, *rest, alpha, None, None, None, 3, backend, torch.float32)
    for given in (inputs, (turned(query), *inputs[1:])):
        torch.library.opcheck(itc.opaque, given, test_utils=CHECKS)
    found = []
    for loss in (
        itc.opaque(*inputs)[0],
        itc_loss(query, *rest, temperature, alpha, group_size=3, backend=backend),
    ):
        found.append([loss, *torch.autograd.grad(1.7 * loss, (query, temperature))])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_captioning(backend: str) -> None:
    torch.manual_seed(0)
    states, weight = torch.randn(5, 16, device=DEVICE), torch.randn(70, 16, device=DEVICE)
    leaves = [t.requires_grad_() for t in (states, weight, torch.randn(70, device=DEVICE))]
    targets = torch.tensor([3, 69, -100, 0, 8], device=DEVICE)
    weights = torch.rand(5, device=DEVICE)
    inputs = (*leaves, targets, weights, 0.1, torch.float32, backend)
    for given in (inputs, (turned(states), *inputs[1:])):
        torch.library.opcheck(lm.opaque, given, test_utils=CHECKS)
    found = []
    for loss in (
        lm.opaque(*inputs)[0],
        lm_loss(*leaves, targets, weights, label_smoothing=0.1, backend=backend),
    ):
        found.append([loss, *torch.autograd.grad(1.7 * loss, leaves)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want)


def test_negatives() -> None:
    torch.manual_seed(0)
    query, keys = unit(6), unit(6)
    temperature, groups = torch.tensor(0.07, device=DEVICE), torch.tensor([4, 9], device=DEVICE)
    inputs = (query, keys, temperature, 5, groups, 1e-4, None, 3)
    torch.library.opcheck(negatives._by_kernel, inputs, test_utils=CHECKS)
    drawn = draw_hard_negatives(
        query, keys, temperature, seed=5, group_keys=groups, group_size=3, backend="triton"
    )
    assert torch.equal(negatives._by_kernel(*inputs), drawn)
    assert ((drawn // 3) == torch.arange(6, device=DEVICE) // 3).all()


def test_the_seed_is_mixed_on_the_host_as_on_the_device() -> None:
    for seed in (0, 1, 12345, 2**62 + 7):
        mixed = negatives._mix(torch.tensor(seed, dtype=torch.int64))
        assert negatives._mix_int(seed) == int(mixed)
