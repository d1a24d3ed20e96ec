"""Sides of a comparison of kernels as recordings; on a GPU."""

import pytest
import torch

from bench.replayed import replayed

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_a_replay_does_the_work_without_its_host() -> None:
    number, calls, notes = torch.zeros((), device="cuda"), [], []

    def side() -> None:
        calls.append(None)
        number.add_(1)

    replay = replayed(side, notes.append)
    number.zero_()
    calls.clear()
    replay()
    replay()
    assert (number.item(), calls, notes) == (2, [], [])


def test_gradients_are_recorded() -> None:
    x = torch.randn(8, device="cuda", requires_grad=True)
    notes: list[str] = []
    replayed(lambda: torch.autograd.grad((x * x).sum(), x), notes.append)()
    assert not notes


def test_what_waits_is_launched_by_the_host_and_named() -> None:
    number, notes = torch.zeros((), device="cuda"), []
    side = replayed(lambda: number.add_(1).item(), notes.append)
    assert side() == number.item()
    assert len(notes) == 1 and notes[0].startswith("launched by the host: ")
    # And random numbers can be drawn afterwards.
    torch.randn(3, device="cuda")
