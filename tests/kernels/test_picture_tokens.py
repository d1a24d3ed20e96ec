"""[CLS], patches and positions in one pass: the definition's bits, forward and back."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import picture_tokens
from kernels.picture_tokens.reference import picture_tokens_reference

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ((1, 1, 24), (3, 16, 24), (1, 17, 24))
Way = Callable[..., torch.Tensor]


def outcome(way: Way, wanted: str, low: bool, kind: torch.dtype) -> list[torch.Tensor]:
    """Tokens, and gradients of those of [CLS], patches and positions that are wanted."""
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.randn(shape, generator=generator).to(DEVICE, kind) for shape in SHAPES]
    for leaf, name in zip(leaves, ("cls", "patches", "positions"), strict=True):
        leaf.requires_grad_(name in wanted)
    cls_token, patches, positions = leaves
    with torch.autocast(DEVICE, torch.bfloat16) if low else nullcontext():
        tokens = way(cls_token, patches.bfloat16() if low else patches, positions)
    if wanted:
        tokens.backward(torch.randn(tokens.shape, generator=generator).to(tokens))
    return [tokens.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("wanted", ["cls patches positions", "patches", "positions", ""])
@pytest.mark.parametrize(
    ("low", "kind"),
    [(False, torch.float32), (True, torch.float32), (False, torch.float16)],
)
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_bits_of_the_definition(wanted: str, low: bool, kind: torch.dtype, backend: str) -> None:
    ways = (picture_tokens_reference, partial(picture_tokens, backend=backend))
    (want, *gradients), (got, *found) = (outcome(way, wanted, low, kind) for way in ways)
    assert got.dtype == want.dtype == (torch.float32 if low else kind)
    assert torch.equal(got, want) and len(found) == len(gradients) == len(wanted.split())
    for got, want in zip(found, gradients, strict=True):
        assert got.dtype == want.dtype and torch.equal(got, want)


class Written(TorchDispatchMode):
    """Names the operations whose result lies in each memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[int, list[str]] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        if isinstance(result, torch.Tensor):
            place = result.untyped_storage().data_ptr()
            self.names.setdefault(place, []).append(function._schema.name)
        return result


def test_the_batch_is_written_once() -> None:
    cls_token, patches, positions = (torch.randn(shape, device=DEVICE) for shape in SHAPES)
    with torch.no_grad(), Written() as written:
        tokens = picture_tokens(cls_token, patches.bfloat16(), positions, backend="torch")
    names = written.names[tokens.untyped_storage().data_ptr()]
    passes = [name for name in names if name in ("aten::add", "aten::copy_", "aten::cat")]
    assert passes == ["aten::copy_", "aten::add"]


@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_no_pictures_make_no_tokens(backend: str) -> None:
    cls_token, patches, positions = (torch.randn(shape, device=DEVICE) for shape in SHAPES)
    assert picture_tokens(cls_token, patches[:0], positions, backend=backend).shape == (0, 17, 24)


def test_shapes_that_do_not_fit_are_named() -> None:
    cls_token, patches, positions = (torch.randn(shape) for shape in SHAPES)
    with pytest.raises(ValueError, match=r"\(3, 16, 24\) and \(1, 16, 24\) must be"):
        picture_tokens(cls_token, patches, positions[:, 1:])
