"""Packed linear maps: in bf16 the bits of the plain one, and a GELU that is no more wrong."""

import pytest
import torch

from kernels.packed_linear import (
    pack,
    packed_linear,
    packed_linear_reference,
    packing_problem,
    unpack,
)

PROBLEM = packing_problem(torch.zeros(1, dtype=torch.bfloat16))
needs_packing = pytest.mark.skipif(PROBLEM is not None, reason=str(PROBLEM))


def inputs(
    rows: int, outputs: int, dtype: torch.dtype = torch.bfloat16
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + outputs)
    shapes = ((rows, 96), (outputs, 96), (outputs,))
    return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)


@needs_packing
@pytest.mark.parametrize("rows", [0, 1, 8, 129])
@pytest.mark.parametrize("outputs", [2, 100])
def test_the_bits_are_those_of_the_plain_map(rows: int, outputs: int) -> None:
    x, weight, bias = inputs(rows, outputs)
    packed = pack(weight)
    assert torch.equal(unpack(packed), weight)
    for one in (bias, None):
        assert torch.equal(packed_linear(x, packed, one), packed_linear_reference(x, weight, one))
    assert torch.equal(packed_linear(x.float(), packed, bias), packed_linear(x, packed, bias))


@needs_packing
@pytest.mark.parametrize("rows", [0, 1, 8, 129])
@pytest.mark.parametrize("gelu", [False, True])
def test_fp32_is_no_more_wrong_than_the_plain_map(rows: int, gelu: bool) -> None:
    x, weight, bias = inputs(rows, 100, torch.float32)
    packed = pack(weight)
    assert torch.equal(unpack(packed), weight)
    truth = packed_linear_reference(x.double(), weight.double(), bias.double(), gelu=gelu)
    found = packed_linear(x, packed, bias, gelu=gelu)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5)


@needs_packing
def test_rows_may_lie_apart() -> None:
    x, weight, bias = inputs(12, 100)
    packed, plain = pack(weight), packed_linear_reference(x, weight, bias)
    block = packed_linear(x.view(3, 4, 96).transpose(0, 1), packed, bias)
    assert torch.equal(block, plain.view(3, 4, 100).transpose(0, 1))
    wide = torch.cat([x, x], 1)[:, :96]
    assert not wide.is_contiguous()
    assert torch.equal(packed_linear(wide, packed, bias), plain)


@needs_packing
def test_the_gelu_is_no_more_wrong_than_after_rounding() -> None:
    x, weight, bias = inputs(129, 100)
    truth = packed_linear_reference(x.double(), weight.double(), bias.double(), gelu=True)
    found = packed_linear(x, pack(weight), bias, gelu=True)
    plain = packed_linear_reference(x, weight, bias, gelu=True)
    error, allowed = ((y.double() - truth).square().mean().sqrt() for y in (found, plain))
    assert 0 < error <= allowed


@needs_packing
def test_shapes_that_do_not_fit_are_refused() -> None:
    x, weight, bias = inputs(3, 100)
    with pytest.raises(ValueError, match="packed_linear: x .3, 95."):
        packed_linear(x[:, 1:], pack(weight), bias)
    with pytest.raises(ValueError, match="bias .99,. must be"):
        packed_linear(x, pack(weight), bias[1:])


@needs_packing
@pytest.mark.parametrize("of", ["x", "bias"])
def test_gradients_are_refused(of: str) -> None:
    x, weight, bias = inputs(3, 100)
    {"x": x, "bias": bias}[of].requires_grad_()
    with pytest.raises(RuntimeError, match="packed weights give no gradients"):
        packed_linear(x, pack(weight), bias)
    with torch.no_grad():
        packed_linear(x, pack(weight), bias)


def test_what_cannot_be_packed_says_why() -> None:
    half = torch.zeros(1, dtype=torch.float16)
    assert packing_problem(half) == "it packs float32 and bfloat16, not float16"
    meta = torch.zeros(1, dtype=torch.bfloat16, device="meta")
    assert packing_problem(meta) == "weights are on meta"
