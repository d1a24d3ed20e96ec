"""Several maps of one input as one product: nothing is joined that stands side by side already."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import attention_rows, linear, linear_into, linears, linears_in_turn
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


def gradients(found: Tensors, inputs: Tensors) -> Tensors:
    """Under random upstream ones."""
    generator = torch.Generator().manual_seed(5)
    upstream = [torch.randn(t.shape, generator=generator).to(t) for t in found]
    return list(torch.autograd.grad(found, inputs, upstream))


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


@pytest.mark.parametrize("asking", [9, 2])
def test_gradients_from_attention_stand_side_by_side(asking: int) -> None:
    """Of all three maps, or of keys and values where each of two rows asks once."""
    weights = random(*[(32, 12), (32,)] * 3)
    (x,) = random((9, 12))
    first, length = torch.tensor([[0, 4], [4, 5]], device=DEVICE)
    asked = (first, length) if asking == 9 else (first[:2] // 4, length // 4)
    found = {}
    for backend in ("triton", "reference"):
        chosen = {"backend": backend}
        if asking == 9:
            maps = linears(x, weights[::2], weights[1::2], **chosen)
        else:
            (query,) = linears(x[first], weights[:1], weights[1:2], **chosen)
            maps = (query, *linears(x, weights[2::2], weights[3::2], **chosen))
        heads = [tokens.unflatten(1, (2, 16)) for tokens in maps]
        out = attention_rows(*heads, *asked, first, length, (5, 5), **chosen)
        with Calls() as seen:
            found[backend] = gradients([out], [x, *weights])
        # Weights that are no copies are joined.
        assert backend == "reference" or seen.names.count("cat") == 1
    for ours, plain in zip(found["triton"], found["reference"], strict=True):
        # A key's bias changes no weight: its gradient is 0 but for rounding.
        scale = plain.abs().max().clamp(min=1).item()
        torch.testing.assert_close(ours, plain, rtol=0, atol=1e-5 * scale)


LAYERS = 4
SHAPES = [(10, 12), (10,), (6, 12), (6,)] * LAYERS


def read_in_turn(x: torch.Tensor, weights: Tensors, backend: str) -> Tensors:
    """What several layers, each of two maps, make of one input."""
    found: Tensors = []
    for layer in range(LAYERS):
        own = weights[4 * layer :][:4]
        maps, x = linears_in_turn(x, own[::2], own[1::2], backend=backend)
        found += maps
    return found


def outcome(inputs: Tensors, backend: str) -> Tensors:
    """All that is made, and gradients of the input and of all weights."""
    x, *weights = inputs
    # Another reads it too, as the contrast does.
    found = [x.square(), *read_in_turn(x * 1, weights, backend)]
    return [*found, *gradients(found, inputs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_in_turn_are_no_more_wrong_than_each_by_itself(dtype: torch.dtype) -> None:
    inputs = random((3, 7, 12), *SHAPES)
    inputs = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
    truth = outcome([t.detach().double().requires_grad_() for t in inputs], "reference")
    found = [outcome(inputs, backend) for backend in ("reference", "triton")]
    for want, plain, ours in zip(truth, *found, strict=True):
        assert ours.dtype == plain.dtype
        # The interpreter cuts float32 off where it stores sixteen bits.
        floor = (1e-6 if dtype == torch.float32 else 2**-8) * want.abs().max().clamp(min=1)
        allowed = (plain.double() - want).abs().max() + floor
        assert (ours.double() - want).abs().max() <= allowed


def test_gradients_of_the_input_are_added_up_in_the_products() -> None:
    x, *weights = random((3, 7, 12), *SHAPES)
    found = read_in_turn(x, weights, "triton")
    with Calls() as seen:
        gradients(found, [x, *weights])
    assert seen.names.count("addmm_") == LAYERS - 1
    assert not {"add", "add_", "addmm", "sum"} & set(seen.names)
    assert seen.names.count("cat") == 2 * LAYERS


def test_gradients_that_stand_side_by_side_are_not_joined() -> None:
    x, *weights = random((3, 7, 12), *SHAPES[:4])
    found, _ = linears_in_turn(x, weights[::2], weights[1::2], backend="triton")
    for joined, joins in ((True, 0), (False, 1)):
        whole = torch.ones(3, 7, 16, device=DEVICE)
        upstream = whole.split([10, 6], -1) if joined else [torch.ones_like(t) for t in found]
        with Calls() as seen:
            (by_x,) = torch.autograd.grad(found, [x], upstream, retain_graph=True)
        # The weights themselves are no copies here, and are joined.
        assert seen.names.count("cat") == joins + 1
        expected = sum(weight.detach().sum(0) for weight in weights[::2])
        torch.testing.assert_close(by_x, expected.expand_as(by_x), rtol=1e-5, atol=1e-5)


def test_a_gradient_that_others_hold_is_not_written_over() -> None:
    """What comes back is read by a sum too, whose other term gets the same gradient."""
    x, other, *weights = random((3, 12), (3, 12), *SHAPES[:8])
    first, last = weights[:4], weights[4:]
    maps, passed = linears_in_turn(x, first[::2], first[1::2], backend="triton")
    found = [*maps, *linears_in_turn(passed + other, last[::2], last[1::2], backend="triton")[0]]
    plain = [*linears(x, first[::2], first[1::2], backend="reference")]
    plain += linears(x + other, last[::2], last[1::2], backend="reference")
    ours, want = (gradients(each, [x, other, *weights]) for each in (found, plain))
    for one, expected in zip(ours, want, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5)


def test_what_nobody_reads_has_no_gradient() -> None:
    x, *weights = random((3, 12), *SHAPES)
    for used in (0, 5, 2 * LAYERS - 1):
        for backend in ("triton", "reference"):
            found = read_in_turn(x, weights, backend)
            (by_x,) = gradients([found[used]], [x])
            (expected,) = gradients([linears(x, *[[w] for w in weights[2 * used :][:2]])[0]], [x])
            torch.testing.assert_close(by_x, expected, rtol=1e-5, atol=1e-5)


def test_an_input_without_gradient_stays_so() -> None:
    x, *weights = random((3, 12), *SHAPES[:4])
    fixed = x.detach()
    maps, passed = linears_in_turn(fixed, weights[::2], weights[1::2], backend="triton")
    assert passed is fixed and all(each.requires_grad for each in maps)
    with torch.no_grad():
        maps, passed = linears_in_turn(x, weights[::2], weights[1::2], backend="triton")
    assert passed is x and not any(each.requires_grad for each in maps)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_written_where_it_is_kept(dtype: torch.dtype) -> None:
    x, weight, bias = random((2, 5, 16), (24, 16), (24,))
    with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16):
        want, room = (
            linear(x, weight, bias),
            torch.full((2, 5, 24), 7.0, device=DEVICE, dtype=dtype),
        )
        linear_into(x, weight, bias, room)
    torch.testing.assert_close(
        room, want.to(dtype), rtol=2**-8 if dtype == torch.bfloat16 else 1e-6, atol=1e-6
    )
