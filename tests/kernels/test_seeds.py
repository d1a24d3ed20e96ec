"""Seeds that are drawn together: each another, and the same when repeated."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from kernels import add_norm, seeds, seeds_together, with_same_seeds
from tests.kernels.test_layer_ops import DEVICE, random

WHERE = torch.device(DEVICE)


class Draws(TorchDispatchMode):
    """Counts what draws."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += function._schema.name.startswith("aten::randint")
        return function(*arguments, **(named or {}))


def ask(count: int) -> list[int]:
    return [int(seeds.new_seed(WHERE)[0]) for _ in range(count)]


def test_one_draw_is_of_many_and_another_follows_when_they_are_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seeds, "TOGETHER", 4)
    torch.manual_seed(1)
    with Draws() as draws, seeds_together():
        assert draws.count == 0
        found = ask(4)
        assert draws.count == 1
        found += ask(1)
        assert draws.count == 2
    assert len(set(found)) == 5 and min(found) >= 0
    torch.manual_seed(1)
    with seeds_together():
        assert ask(5) == found
    with seeds_together():
        assert not set(ask(5)) & set(found)


def test_outside_each_is_drawn_by_itself() -> None:
    torch.manual_seed(1)
    with Draws() as draws:
        found = ask(3)
    assert draws.count == len(set(found)) == 3
    assert with_same_seeds(ask) is ask


def test_a_function_that_is_called_again_gets_what_it_got() -> None:
    with seeds_together():
        before, first = ask(2), with_same_seeds(ask)
        found = first(3)
        after, again = ask(2), first(3)
        last = ask(1)
    assert again == found
    assert len({*before, *found, *after, *last}) == 8
    # As in a backward pass, which other threads run.
    assert first(3) == found


def test_layers_that_run_again_drop_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the seeds are out in the middle of one, and what PyTorch draws beside them."""
    monkeypatch.setattr(seeds, "TOGETHER", 4)
    residual, branch, weight, bias = random((6, 48), (6, 48), (48,), (48,))

    def layer(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = add_norm(x, branch, weight, bias, 1e-6, dropout=0.4, backend="triton")[1]
            x = torch.nn.functional.dropout(x, 0.3)
        return x

    found = []
    for again in (False, True):
        x = residual.clone().requires_grad_()
        torch.manual_seed(2)
        with seeds_together():
            out = x
            for _ in range(3):
                if again:
                    out = checkpoint(with_same_seeds(layer), out, use_reentrant=False)
                else:
                    out = layer(out)
        found.append([out.detach(), *torch.autograd.grad(out.square().sum(), x)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_launches_are_of_one_kind() -> None:
    with seeds_together():
        assert all(seeds.new_seed(WHERE).data_ptr() % 16 == 0 for _ in range(3))
