"""A bias whose map a norm reads gets its gradient of the norm, and by no sum of its own."""

from collections.abc import Callable

import pytest
import torch

from kernels import add_norm, linear, mlp
from kernels.add_norm import triton_backward
from kernels.linear import triton_kernels
from kernels.parts import counters
from tests.kernels.test_layer_ops import DEVICE, DTYPES, random

WIDTH, HIDDEN = 24, 16
Shapes = list[tuple[int, ...]]
Map = Callable[..., torch.Tensor]
Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """Shapes of what maps have added up themselves."""
    shapes, original = [], triton_kernels.column_sum

    def counted(x: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(x.shape))
        return original(x)

    monkeypatch.setattr(triton_kernels, "column_sum", counted)
    return shapes


def by_linear(x: torch.Tensor, *tensors: torch.Tensor, backend: str) -> torch.Tensor:
    return linear(x, *tensors[2:], backend=backend)


def by_mlp(x: torch.Tensor, *tensors: torch.Tensor, backend: str) -> torch.Tensor:
    return mlp(x, *tensors, backend=backend)


def itself(branch: torch.Tensor) -> torch.Tensor:
    return branch


def gradients(
    read: Map,
    backend: str,
    dtype: torch.dtype,
    change: Change = itself,
    beside: Change | None = None,
    *,
    frozen: bool = False,
) -> list[torch.Tensor]:
    """Of the end of a layer: the norm's residual, weight and bias, the map's input and weights.

    Args:
        read: the map.
        backend: of all; `reference` computes in float64.
        dtype: of the map and what it reads.
        change: what stands between map and norm.
        beside: what else reads the map's output.
        frozen: the map's last bias.
    """
    leaves = random((3, 7, WIDTH), (WIDTH,), (WIDTH,), (3, 7, HIDDEN))
    leaves += random((HIDDEN, HIDDEN), (HIDDEN,), (WIDTH, HIDDEN), (WIDTH,))
    leaves[3:] = [tensor.to(dtype) for tensor in leaves[3:]]
    leaves = [leaf.double() if backend == "reference" else leaf for leaf in leaves]
    for leaf in leaves[: -1 if frozen else None]:
        leaf.requires_grad_()
    residual, weight, bias, *rest = leaves
    branch = read(*rest, backend=backend)
    results = list(add_norm(residual, change(branch), weight, bias, 1e-6, backend=backend))
    if beside is not None:
        results.append(beside(branch))
    upstream = random((3, 7, WIDTH, 3))[0].unbind(-1)[: len(results)]
    torch.autograd.backward(results, [t.to(r) for t, r in zip(upstream, results, strict=True)])
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


def check(read: Map, dtype: torch.dtype = torch.float32, *more: Change, **settings: bool) -> None:
    """As exact as the dtype allows."""
    want = gradients(read, "reference", dtype, *more, **settings)
    got = gradients(read, "triton", dtype, *more, **settings)
    assert len(want) == len(got) == (8 if read is by_mlp else 6) - bool(settings)
    allowed = 1e-5 if dtype == torch.float32 else 0.03
    for number, (right, ours) in enumerate(zip(want, got, strict=True)):
        assert (ours - right).abs().max() <= allowed * right.abs().max(), number


def seen_otherwise(branch: torch.Tensor) -> torch.Tensor:
    return branch.flatten(0, 1).unflatten(0, branch.shape[:2])


@pytest.mark.parametrize("change", [itself, seen_otherwise])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("read", [by_linear, by_mlp])
def test_a_map_that_a_norm_reads_adds_up_nothing(
    read: Map, dtype: torch.dtype, change: Change, launches: Shapes
) -> None:
    check(read, dtype, change)
    assert launches == []


def turned(branch: torch.Tensor) -> torch.Tensor:
    """As many numbers a row, which are others."""
    return branch.transpose(0, 1).reshape(branch.shape)


def halved(branch: torch.Tensor) -> torch.Tensor:
    return branch * 0.5


def hooked(branch: torch.Tensor) -> torch.Tensor:
    branch.register_hook(lambda gradient: gradient * 3)
    return branch


def hooked_in_place(branch: torch.Tensor) -> torch.Tensor:
    def triple(gradient: torch.Tensor) -> None:
        gradient.mul_(3)

    branch.register_hook(triple)
    return branch


@pytest.mark.parametrize("change", [turned, halved, hooked])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("read", [by_linear, by_mlp])
def test_a_gradient_that_has_become_another_is_added_up(
    read: Map, dtype: torch.dtype, change: Change, launches: Shapes
) -> None:
    check(read, dtype, change)
    assert launches == [(21, WIDTH)]


def test_a_gradient_that_was_changed_in_its_place_is_added_up(launches: Shapes) -> None:
    """Of a narrow branch: a wide one's gradient is the residual's too."""
    check(by_linear, torch.bfloat16, hooked_in_place)
    assert launches == [(21, WIDTH)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("read", [by_linear, by_mlp])
def test_a_branch_that_others_read_too(read: Map, dtype: torch.dtype, launches: Shapes) -> None:
    check(read, dtype, itself, halved)
    assert launches == [(21, WIDTH)]


@pytest.mark.parametrize("read", [by_linear, by_mlp])
def test_a_frozen_bias_asks_for_nothing(
    read: Map, launches: Shapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, original = [], triton_backward.backward

    def backward(*inputs: torch.Tensor, with_columns: bool, **rest: object) -> tuple:
        asked.append(with_columns)
        return original(*inputs, with_columns=with_columns, **rest)

    monkeypatch.setattr(triton_backward, "backward", backward)
    check(read, frozen=True)
    check(read)
    assert asked == [False, True]
    assert launches == []


@pytest.mark.parametrize(
    ("rows", "most", "least"), [(1, 264, 4), (300, 264, 4), (300, 20, 4), (523, 264, 1)]
)
def test_sums_in_groups(rows: int, most: int, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one program, of groups of which the last is smaller, of as many programs as there may be,
    and of more groups than are read at once.

    What is added up is not rounded as the narrow branch's gradient is.
    """
    monkeypatch.setattr(triton_backward, "PROGRAMS", most)
    monkeypatch.setattr(triton_backward, "LEAST", least)
    upstream, total = random((rows, 1000), (rows + 1, 1000))
    weight, mean, scale = torch.ones(1000, device=DEVICE), *random((rows,), (rows + 1,))
    inputs = (upstream, None, weight, weight, mean, scale[1:], total[1:])
    settings = {"dtypes": (torch.float32, torch.bfloat16), "with_columns": True}
    found = triton_backward.backward(None, *inputs, **settings)
    unit = (total[1:].double() - mean[:, None]) * scale[1:, None]
    sums = [(upstream * unit).sum(0), upstream.double().sum(0), found[0].double().sum(0)]
    for got, want in zip(found[2:], sums, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-3)
    again = triton_backward.backward(None, *inputs, **settings)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
    assert not counters(upstream.device).any()
