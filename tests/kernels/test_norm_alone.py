"""A norm of the stream as it is, where nothing is added before it."""

import pytest
import torch
import torch.nn.functional as F

from kernels import add_norm, linear
from tests.kernels.test_layer_ops import DTYPES, compare, random

Tensors = list[torch.Tensor]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5), (2, 7, 24), (33, 100), (5, 768)])
@pytest.mark.parametrize("used", ["both", "norm"])
def test_a_norm_alone(shape: tuple[int, ...], dtype: torch.dtype, used: str) -> None:
    """Where the stream goes on its gradient is added in the same pass."""

    def of(backend: str) -> object:
        first = used == "norm"
        return lambda x, *affine: add_norm(x, None, *affine, 1e-6, backend=backend)[first:]

    compare(of, random(shape, shape[-1:], shape[-1:]), [dtype] * 3)


def test_the_stream_is_the_tensor_itself() -> None:
    (x,), affine = random((6, 48)), random((48,), (48,))
    for wanted in (True, False):
        leaf = x.clone().requires_grad_(wanted)
        total, _ = add_norm(leaf, None, *affine, 1e-6, dropout=0.5, backend="triton")
        assert total.data_ptr() == leaf.data_ptr() and total.requires_grad == wanted
        # Of the stream alone.
        if wanted:
            total.backward(x)
            assert torch.equal(leaf.grad, x)
    every_other = random((6, 96))[0][:, ::2]
    total, normed = add_norm(every_other, None, *affine, 1e-6, backend="triton")
    assert torch.equal(total, every_other)
    torch.testing.assert_close(normed, F.layer_norm(every_other, (48,), *affine, 1e-6))


def test_a_product_makes_it_again_and_it_is_written_in_the_products_dtype() -> None:
    found: list[Tensors] = []
    for backend, kind in (("reference", torch.float64), ("triton", torch.float32)):
        leaves = random((3, 7, 24), (24,), (24,), (16, 24), (16,))
        leaves = [leaf.to(kind).requires_grad_() for leaf in leaves]
        low = kind if backend == "reference" else torch.bfloat16
        settings = {"norm_dtype": low, "read_once": True, "backend": backend}
        total, normed = add_norm(leaves[0], None, *leaves[1:3], 1e-6, **settings)
        assert normed.dtype == low and "origin" in normed.__dict__
        out = linear(normed, leaves[3].to(low), leaves[4].to(low), backend=backend)
        (upstream,) = random((3, 7, 24))
        upstream = upstream.to(kind)
        results = [out, total]
        grads = [upstream[..., :16].to(low), upstream]
        found.append([out.detach(), *torch.autograd.grad(results, leaves, grads)])
    for number, (want, got) in enumerate(zip(*found, strict=True)):
        assert (got - want).abs().max() <= 0.03 * want.abs().max(), number
