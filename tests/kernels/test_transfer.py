"""Numbers between host and device, without either waiting for the other."""

import pytest
import torch

from kernels.transfer import beside, sent, values_later

GPU = torch.cuda.is_available()
HERE = torch.device("cuda", 0) if GPU else torch.device("cpu")
kinds = pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def device_of(kind: str) -> torch.device:
    if kind == "cuda" and not GPU:
        pytest.skip("needs an NVIDIA GPU")
    return torch.device(kind, 0) if kind == "cuda" else torch.device(kind)


@kinds
def test_there_and_back(kind: str) -> None:
    device, numbers = device_of(kind), torch.arange(1000)
    there = sent(numbers, device)
    told = values_later(there * 2)
    there.zero_()
    assert there.device == device and told() == list(range(0, 2000, 2))


@kinds
def test_what_is_made_beside_is_ready_when_it_is_taken(kind: str) -> None:
    """Long after it was asked for and soon, and again in the same memory."""
    device = device_of(kind)

    def make(number: int) -> torch.Tensor:
        made = torch.ones(1 << 20, device=device)
        for _ in range(20):
            made = made * 1.0
        return made * number

    waiting = [beside(lambda n=n: make(n), device) for n in range(3)]
    for number, take in enumerate(waiting):
        assert (take() * 2 == 2 * number).all()
    for number in range(5):
        assert (beside(lambda n=number: make(n), device)() == number).all()
