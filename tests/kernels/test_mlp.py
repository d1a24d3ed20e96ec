"""Two linear maps and the GELU between them: equal to the definition, with less kept."""

from collections.abc import Callable

import pytest
import torch

from kernels import mlp
from tests.kernels.test_layer_ops import DEVICE, DTYPES, FLOOR, compare, outcome, random

BACKENDS = ["torch", "triton"]
SHAPES = [((7, 16), 300, 9), ((2, 9, 8), 256, 8), ((70, 4), 33, 5), ((1, 3), 5, 2)]


def run(backend: str) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda *inputs: (mlp(*inputs, backend=backend),)


def inputs_of(shape: tuple[int, ...], hidden: int, out: int) -> list[torch.Tensor]:
    """x, and weights scaled so that the results are of size 1."""
    x, first, b1, second, b2 = random(shape, (hidden, shape[-1]), (hidden,), (out, hidden), (out,))
    return [x, first / shape[-1] ** 0.5, b1, second / hidden**0.5, b2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "hidden", "out"), SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_results_and_gradients(
    backend: str, shape: tuple[int, ...], hidden: int, out: int, dtype: torch.dtype
) -> None:
    ours = lambda name: run(backend if name == "triton" else name)  # noqa: E731
    compare(ours, inputs_of(shape, hidden, out), [dtype] * 5)


def test_on_a_cpu_the_result_is_that_of_the_definition_bit_by_bit() -> None:
    inputs = [tensor.cpu() for tensor in inputs_of((33, 24), 96, 24)]
    assert torch.equal(mlp(*inputs), mlp(*inputs, backend="reference"))


@pytest.mark.parametrize(("keeps", "width"), [(False, 16 + 64), (True, 16 + 2 * 64)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_only_the_input_and_the_first_product_are_kept_and_the_rest_if_asked(
    backend: str, keeps: bool, width: int
) -> None:
    inputs = [tensor.requires_grad_() for tensor in inputs_of((5, 6, 16), 64, 16)]
    parameters = {tensor.data_ptr() for tensor in inputs[1:]}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = mlp(*inputs, keeps=keeps, backend=backend)
    assert sum(n for at, n in kept.items() if at not in parameters) == 5 * 6 * width * 4
    out.sum().backward()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_kept_gives_the_same_gradients(backend: str) -> None:
    found = []
    for keeps in (False, True):
        leaves = [t.requires_grad_() for t in inputs_of((2, 9, 8), 48, 8)]
        mlp(*leaves, keeps=keeps, backend=backend).square().sum().backward()
        found.append([leaf.grad for leaf in leaves])
    error = 0.0 if DEVICE == "cpu" else 1e-5
    for again, kept in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, rtol=error, atol=error)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_some_inputs_alone(backend: str) -> None:
    inputs = inputs_of((6, 16), 48, 8)
    whole = outcome(run("reference"), inputs, [torch.float32] * 5)[1:]
    for wanted in ([0], [1, 2], [3], [4], [0, 3, 4]):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
        out = mlp(*leaves, backend=backend)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5)).to(out)
        found = torch.autograd.grad(out, [leaves[i] for i in wanted], upstream)
        for i, gradient in zip(wanted, found, strict=True):
            torch.testing.assert_close(gradient, whole[i], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast_it_is_as_wrong_as_torch(backend: str) -> None:
    inputs = inputs_of((9, 32), 48, 16)
    exact = outcome(run("reference"), inputs, [torch.float64] * 5)
    found = []
    for name in ("reference", backend):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        with torch.autocast(DEVICE, torch.bfloat16):
            out = mlp(*leaves, backend=name)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
        found.append([out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out))])
    for number, (want, torchs, got) in enumerate(zip(exact, *found, strict=True)):
        assert got.dtype == torchs.dtype, number
        floor = FLOOR[torch.bfloat16] * want.abs().max().clamp(min=1)
        allowed = 2 * (torchs.double() - want).abs().max() + floor
        assert (got.double() - want).abs().max() <= allowed, number


def test_shapes_that_do_not_fit_and_a_backend_that_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = [tensor.cpu() for tensor in inputs_of((6, 16), 48, 8)]
    with pytest.raises(ValueError, match=r"mlp: .* must be \[..., I\], \[H, I\]"):
        mlp(inputs[0][:, :-1], *inputs[1:])
    with pytest.raises(ValueError, match="mlp: unknown backend 'fast'"):
        mlp(*inputs, backend="fast")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="mlp: .* tensors are on cpu"):
        mlp(*inputs, backend="triton")


def test_few_rows_are_no_worse_than_the_definition() -> None:
    low = torch.bfloat16 if torch.cuda.is_available() else torch.float16
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 40), (70, 40), (70,), (40, 70), (40,))
    made = (torch.randn(shape, generator=generator) / 4 for shape in shapes)
    inputs = [tensor.to(device, low) for tensor in made]
    truth = mlp(*(tensor.double() for tensor in inputs), backend="reference")
    errors = [
        (mlp(*inputs, backend=backend).double() - truth).abs().max()
        for backend in ("rows", "reference")
    ]
    assert errors[0] <= 2 * errors[1] + 1e-4
    with pytest.raises(RuntimeError, match="mlp: backend 'rows' .* 16-bit"):
        mlp(*(tensor.float() for tensor in inputs), backend="rows")
