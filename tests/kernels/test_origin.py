"""What reads a norm keeps where it came from: the same gradients, and the norm is let go."""

from collections.abc import Callable

import pytest
import torch

from kernels import add_norm, linear, linears, mlp, parted
from kernels.add_norm.narrow import joined
from kernels.add_norm.origin import origin_of
from tests.kernels.test_layer_ops import DEVICE, random

WIDTH, HIDDEN = 24, 40
Reader = Callable[..., torch.Tensor]


def by_linear(normed: torch.Tensor, backend: str) -> torch.Tensor:
    (weight, bias) = random((HIDDEN, WIDTH), (HIDDEN,))
    return linear(normed, weight.requires_grad_(), bias, backend=backend)


def by_mlp(normed: torch.Tensor, backend: str) -> torch.Tensor:
    weights = random((HIDDEN, WIDTH), (HIDDEN,), (WIDTH, HIDDEN), (WIDTH,))
    weights[0].requires_grad_()
    backend = "torch" if backend == "reference" else backend
    return mlp(normed, *weights, backend=backend)


def by_linears(normed: torch.Tensor, backend: str) -> torch.Tensor:
    (weight, bias) = random((HIDDEN, WIDTH), (HIDDEN,))
    maps = [(weight.requires_grad_(), bias), random((8, WIDTH), (8,))]
    return torch.cat(linears(normed, *zip(*maps, strict=True), backend=backend), -1)


def by_joined(normed: torch.Tensor, backend: str) -> torch.Tensor:
    """Rows parted and joined in another order."""
    one, other = parted(normed, [6, 15])
    return by_linear(joined([other, one]), backend)


class Pass:
    """A forward and backward pass of a norm and what reads it, as under autocast.

    Attributes:
        gradients: of residual, branch, the norm's weight and bias, and the reader's weight.
        keeps_norm: whether the norm is kept for the backward pass.
        keeps_sum: whether what was normalised is.
        held: bytes that are kept.
    """

    def __init__(
        self, read: Reader, backend: str, dtype: torch.dtype, *, origin: bool, in_parts: bool
    ) -> None:
        shape = (21, WIDTH) if read is by_joined else (3, 7, WIDTH)
        leaves = random(shape, shape, (WIDTH,), (WIDTH,))
        leaves[1] = leaves[1].to(dtype)
        residual, branch, *affine = (leaf.requires_grad_() for leaf in leaves)
        held: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.data_ptr()] = tensor.detach()
            return tensor

        settings = {"norm_dtype": dtype, "residual_is_kept": in_parts, "read_once": True}
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == torch.bfloat16),
        ):
            total, normed = add_norm(residual, branch, *affine, 1e-6, backend=backend, **settings)
            # Another tensor of the same numbers says nothing.
            out = read(normed if origin else normed.view_as(normed), backend)
        self.keeps_norm = normed.data_ptr() in held
        self.keeps_sum = total.data_ptr() in held
        self.held = sum(tensor.nbytes for tensor in held.values())
        generator = torch.Generator().manual_seed(3)
        upstream = [torch.randn(t.shape, generator=generator).to(t) for t in (total, out)]
        weight = next(t for t in leaves_of(out) if t.shape == (HIDDEN, WIDTH))
        self.gradients = torch.autograd.grad([total, out], [*leaves, weight], upstream)


def leaves_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Those that its graph leads to."""
    found, waiting = [], [tensor.grad_fn]
    while waiting:
        node = waiting.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        waiting += [following for following, _ in node.next_functions if following is not None]
    return found


def close(want: torch.Tensor, got: torch.Tensor, error: float = 2**-8) -> bool:
    """Up to a rounding, to bfloat16 unless said."""
    return (want - got).abs().max() <= error * want.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", ["reference", "triton"])
@pytest.mark.parametrize("read", [by_linear, by_mlp, by_linears, by_joined])
def test_the_same_gradients_without_the_norm(
    read: Reader, backend: str, dtype: torch.dtype
) -> None:
    if read is by_linears and backend == "reference":
        pytest.skip("one map after the other, by_linear")
    plain = Pass(read, backend, dtype, origin=False, in_parts=False)
    less = Pass(read, backend, dtype, origin=True, in_parts=False)
    assert (plain.keeps_norm, less.keeps_norm) == (read is not by_joined, False)
    assert plain.held - less.held == 21 * WIDTH * dtype.itemsize
    for want, got in zip(plain.gradients, less.gradients, strict=True):
        if DEVICE == "cpu":
            assert torch.equal(want, got)
        elif dtype == torch.float32:
            # A GPU's compiler rounds other products of the norm it makes again into sums.
            assert close(want, got, 2**-18)
        else:
            # The definition's product rounds the weight's gradient, ours does not.
            same = backend == "triton" or read is by_mlp
            assert torch.equal(want, got) if same else close(want, got)


@pytest.mark.parametrize("read", [by_linear, by_mlp])
def test_the_same_gradients_without_the_sum(read: Reader) -> None:
    """A branch is kept for it where it is narrower and the residual is there anyway."""
    wide = Pass(read, "triton", torch.float32, origin=True, in_parts=True)
    assert wide.keeps_sum
    whole = Pass(read, "triton", torch.bfloat16, origin=True, in_parts=False)
    parts = Pass(read, "triton", torch.bfloat16, origin=True, in_parts=True)
    assert (whole.keeps_sum, parts.keeps_sum, parts.keeps_norm) == (True, False, False)
    for want, got in zip(whole.gradients, parts.gradients, strict=True):
        # A GPU's compiler may add up the columns of a row in another order.
        assert torch.equal(want, got) if DEVICE == "cpu" else close(want, got)


def test_nothing_is_said_where_it_would_not_be_kept_or_would_not_hold() -> None:
    tensors = random((2, WIDTH), (2, WIDTH), (WIDTH,), (WIDTH,))
    assert origin_of(add_norm(*tensors, 1e-6)[1]) is None
    tensors[1].requires_grad_()
    normed = add_norm(*tensors, 1e-6)[1]
    assert origin_of(normed) is not None
    normed.mul_(2)
    assert origin_of(normed) is None
    with torch.no_grad():
        assert origin_of(add_norm(*tensors, 1e-6)[1]) is None


def test_rows_that_were_joined_say_nothing_when_they_are_parted() -> None:
    """Each norm's rows begin anew, and what they are made of has weights in between."""
    norms = []
    for rows in (4, 3):
        leaves = random((rows, WIDTH), (rows, WIDTH), (WIDTH,), (WIDTH,))
        norms.append(add_norm(*(leaf.requires_grad_() for leaf in leaves), 1e-6)[1])
    whole = joined(norms)
    assert origin_of(whole) is not None
    assert [origin_of(part) for part in parted(whole, [5, 2])] == [None, None]
