"""Norms of several kinds of rows in one tensor: those of each kind, and nothing is joined."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import add_norm, add_norms, linear, rounded
from kernels.add_norm.origin import origin_of
from tests.kernels.test_layer_ops import DEVICE, DTYPES, random

WIDTH, OUT, LOW = 24, 40, torch.bfloat16
# Of each kind: more than fit a tile, one, none.
ROWS = [(5, 130), (1,), (3, 0, 4)]
Tensors = list[torch.Tensor]


class Joins(TorchDispatchMode):
    """Counts tensors that are joined by a copy."""

    count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        self.count += function._schema.name == "aten::cat"
        return function(*arguments, **(named or {}))


def leaves(rows: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, list[Tensors]]:
    """Residual, and branches, weights and biases of all kinds."""
    shapes = [shape for count in rows for shape in ((count, WIDTH), (WIDTH,), (WIDTH,))]
    residual, *others = random((sum(rows), WIDTH), *shapes)
    branches = [branch.to(dtype).requires_grad_() for branch in others[::3]]
    affine = [tensor.requires_grad_() for tensor in (*others[1::3], *others[2::3])]
    return residual.requires_grad_(), [branches, affine[: len(rows)], affine[len(rows) :]]


def apart(residual: torch.Tensor, kinds: list[Tensors], **settings: Any) -> torch.Tensor:
    """The definition: `add_norm` of each kind, joined."""
    parts = zip(residual.split([len(branch) for branch in kinds[0]]), *kinds, strict=True)
    return torch.cat([add_norm(*part, 1e-6, **settings)[1] for part in parts])


def gradients(norms: torch.Tensor, inputs: Tensors) -> Tensors:
    """Of what reads the norms in two dtypes."""
    wide, low = random(norms.shape, (*norms.shape, 1))
    upstream = [wide, low[..., 0].to(LOW)]
    return list(torch.autograd.grad([norms, rounded(norms, LOW)], inputs, upstream))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_each_kind_has_its_norm(rows: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    residual, kinds = leaves(rows, dtype)
    inputs, found = [residual, *sum(kinds, [])], []
    for norms_of, is_ours in ((add_norms, True), (apart, False)):
        arguments = (residual, *kinds, 1e-6) if is_ours else (residual, kinds)
        norms = norms_of(*arguments, narrow_dtype=LOW, backend=backend)
        found.append([norms.detach(), rounded(norms, LOW).detach(), *gradients(norms, inputs)])
    for got, want in zip(*found, strict=True):
        # The interpreter cuts bfloat16 off where the kernel writes it, a cast rounds.
        error = 2**-7 if LOW in (got.dtype, dtype) and backend == "triton" else 1e-6
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=error, atol=error)


@pytest.mark.parametrize("used", ["wide", "narrow", "neither"])
def test_whichever_is_read(used: str) -> None:
    residual, kinds = leaves((5, 3), LOW)
    inputs = [residual, *sum(kinds, [])]
    norms = add_norms(residual, *kinds, 1e-6, narrow_dtype=LOW, backend="triton")
    read = {"wide": norms, "narrow": rounded(norms, LOW), "neither": residual * 1.0}[used]
    found = torch.autograd.grad(read.sum(), inputs, allow_unused=True)
    want = apart(residual, kinds, backend="triton")
    want = residual * 1.0 if used == "neither" else want
    wanted = torch.autograd.grad(want.sum(), inputs, allow_unused=True)
    for got, exact in zip(found, wanted, strict=True):
        assert (got is None) == (exact is None)
        if exact is not None:
            torch.testing.assert_close(got, exact, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_the_product_that_reads_it_makes_it_again(dtype: torch.dtype, backend: str) -> None:
    """And biases of the maps before it get their gradients with the branches'."""
    found = []
    for keeps in (True, False):
        residual, (branches, *affine) = leaves((6, 9), torch.float32)
        maps = random((WIDTH, WIDTH), (WIDTH,), (OUT, WIDTH), (OUT,))
        maps = [tensor.requires_grad_() for tensor in maps]
        torch.manual_seed(6)
        with torch.autocast(DEVICE, LOW, enabled=dtype == LOW):
            made = [linear(branch, *maps[:2], backend=backend) for branch in branches]
            settings = {"narrow_dtype": LOW if dtype == LOW else None, "keeps": keeps}
            settings |= {"dropout": 0.3, "backend": backend}
            norms = add_norms(residual, made, *affine, 1e-6, **settings)
            assert (origin_of(norms, read_once=True) is None) == keeps
            out = linear(norms, *maps[2:], backend=backend)
        inputs = [residual, *branches, *sum(affine, []), *maps]
        found.append([out.detach(), *torch.autograd.grad(out.float().square().sum(), inputs)])
    for kept, again in zip(*found, strict=True):
        assert torch.equal(kept, again) if DEVICE == "cpu" else close(kept, again)


def close(want: torch.Tensor, got: torch.Tensor) -> bool:
    """Up to a rounding: a GPU's compiler may make a norm again to the last bit but one."""
    return (want - got).abs().max() <= 2**-7 * want.abs().max()


def test_kinds_draw_apart_what_they_drop() -> None:
    ones, zeros = torch.ones(2, 9, WIDTH, device=DEVICE), torch.zeros(18, WIDTH, device=DEVICE)
    kinds = (list(ones), list(ones[:, 0]), list(zeros[:2]))
    torch.manual_seed(1)
    norms = add_norms(zeros, *kinds, 1e-6, dropout=0.5, backend="triton")
    dropped = (norms < 0).view(2, 9, WIDTH)
    assert 0.3 < (dropped[0] != dropped[1]).float().mean() < 0.7


def test_nothing_is_joined_on_either_way() -> None:
    residual, kinds = leaves((6, 9), LOW)
    maps = [tensor.to(LOW).requires_grad_() for tensor in random((OUT, WIDTH), (OUT,))]
    with Joins() as joins:
        norms = add_norms(residual, *kinds, 1e-6, narrow_dtype=LOW, backend="triton")
        out = linear(rounded(norms, LOW), *maps, backend="triton")
        torch.autograd.grad([out, norms], [residual, *maps], [out.detach(), norms.detach()])
    assert joins.count == 0


def test_rows_that_do_not_fit_are_refused() -> None:
    residual, (branches, weights, biases) = leaves((5, 3), torch.float32)
    with pytest.raises(ValueError, match=r"8 rows of residuals, of branches \[5, 2\]"):
        add_norms(residual, [branches[0], branches[1][:2]], weights, biases, 1e-6)
    with pytest.raises(ValueError, match="must be"):
        add_norms(residual, branches, [weights[0], weights[1][:3]], biases, 1e-6)
    with pytest.raises(ValueError, match="dropout 1.0"):
        add_norms(residual, branches, weights, biases, 1e-6, dropout=1.0)
