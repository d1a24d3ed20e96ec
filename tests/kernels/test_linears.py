"""Several maps of one input as one product: nothing is joined that stands side by side already."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import linears
from kernels.copies import Copies

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Tensors = list[torch.Tensor]


class Calls(TorchDispatchMode):
    """Names of the operations that run, without those of casts and views."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.names.append(function._schema.name.removeprefix("aten::"))
        return function(*arguments, **(named or {}))


def random(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensors:
    """Normal numbers of these shapes, which ask for gradients."""
    generator = torch.Generator().manual_seed(len(shapes))
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    return [tensor.to(DEVICE, dtype).requires_grad_() for tensor in made]


@pytest.mark.parametrize(("out", "joins"), [(8, 1), (9, 4)])
def test_copies_that_stand_side_by_side_are_not_joined(out: int, joins: int) -> None:
    """All but gradients are; a weight of 9 x 12 leaves a gap behind it, and so does its bias."""
    weights = random(*[(out, 12), (out,)] * 3)
    (x,) = random((5, 12), dtype=torch.bfloat16)
    results = []
    for keep in (False, True):
        kept, seen = Copies(weights if keep else [], torch.bfloat16), Calls()
        with seen:
            found = linears(x, weights[::2], weights[1::2], backend="triton")
            upstream = [torch.ones_like(each) for each in found]
            results.append([*found, *torch.autograd.grad(found, [x, *weights], upstream)])
        assert seen.names.count("cat") == (joins if keep else 4)
        assert kept.refresh() == 0
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
