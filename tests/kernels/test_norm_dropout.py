"""Dropout of a branch before it is added: the kernel's own mask, on both ways the same."""

import pytest
import torch

from kernels import add_norm, dropout, linear, mlp, rounded
from tests.kernels.test_layer_ops import CUT, DEVICE, DTYPES, random
from tests.kernels.test_origin import close

Tensors = list[torch.Tensor]


def drawn(shape: tuple[int, ...], dropout: float, seed: int) -> torch.Tensor:
    """What `add_norm` multiplies a branch with: 0 where it drops."""
    torch.manual_seed(seed)
    weight, bias = torch.ones(2, shape[-1], device=DEVICE)
    zero, one = torch.zeros(shape, device=DEVICE), torch.ones(shape, device=DEVICE)
    return add_norm(zero, one, weight, bias, 1e-6, dropout=dropout, backend="triton")[0]


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.97])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(dropout: float) -> None:
    factors = drawn((3, 90, 770), dropout, seed=1)
    kept = factors != 0
    assert (factors[kept] == torch.tensor(1 / (1 - dropout)).float()).all()
    spread = (dropout * (1 - dropout)) ** 0.5

    def check(found: torch.Tensor, want: float, deviation: float) -> None:
        """Up to five deviations of the mean of so many."""
        off = (found.double().mean() - want).abs().item()
        assert off <= 5 * deviation / found.numel() ** 0.5

    share = 1 - dropout
    check(kept, share, spread)
    # Neighbours know nothing of one another: in a row, in a column, of words and of counters.
    for apart in (1, 2, 3, 4):
        pair = kept[..., apart:] & kept[..., :-apart]
        check(pair, share**2, share * (1 - share**2) ** 0.5)
    check(kept[:, 1:] & kept[:, :-1], share**2, share * (1 - share**2) ** 0.5)


def test_other_seeds_draw_other_masks() -> None:
    one, other, again = (drawn((5, 64), 0.5, seed) for seed in (1, 2, 1))
    assert torch.equal(one, again)
    assert 0.3 < (one != other).float().mean() < 0.7


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5), (2, 7, 24), (33, 100), (5, 768)])
@pytest.mark.parametrize("used", ["both", "sum", "norm"])
def test_as_dropout_with_this_mask(shape: tuple[int, ...], dtype: torch.dtype, used: str) -> None:
    """A float32 stream and a branch of a product, against PyTorch's in float64."""
    factors = drawn(shape, 0.3, seed=4)
    inputs = random(shape, shape, shape[-1:], shape[-1:])
    upstream = random((2, *shape))[0]
    chosen = {"both": slice(2), "sum": slice(1), "norm": slice(1, 2)}[used]
    found: list[Tensors] = []
    for is_ours in (True, False):
        leaves = [tensor.clone() for tensor in inputs]
        leaves[1] = leaves[1].to(dtype)
        leaves = [(t if is_ours else t.double()).requires_grad_() for t in leaves]
        residual, branch, weight, bias = leaves
        torch.manual_seed(4)
        if is_ours:
            results = add_norm(*leaves, 1e-6, dropout=0.3, backend="triton")
        else:
            results = add_norm(residual, branch * factors, weight, bias, 1e-6, backend="reference")
        grads = [t.to(results[0]) for t in upstream[chosen]]
        gradients = torch.autograd.grad(results[chosen], leaves, grads, allow_unused=True)
        found.append([*(result.detach() for result in results), *gradients])
    for number, (got, want) in enumerate(zip(*found, strict=True)):
        assert (got is None) == (want is None), number
        if want is not None:
            narrow = got.dtype == torch.bfloat16
            allowed = (2**-8 + CUT if narrow else 2e-5) * want.abs().max().clamp(min=1)
            assert (got - want).abs().max() <= allowed, number


def test_no_dropout_draws_nothing_and_is_the_same() -> None:
    leaves = random((6, 48), (6, 48), (48,), (48,))
    for backend in ("triton", "reference"):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        found = add_norm(*leaves, 1e-6, dropout=0.0, backend=backend)
        assert torch.equal(torch.get_rng_state(), before)
        plain = add_norm(*leaves, 1e-6, backend=backend)
        assert all(torch.equal(one, other) for one, other in zip(found, plain, strict=True))
    with pytest.raises(ValueError, match="dropout 1.0 out of range"):
        add_norm(*leaves, 1e-6, dropout=1.0)


def test_the_definition_is_a_dropout_a_sum_and_a_norm() -> None:
    residual, branch, weight, bias = (t.cpu() for t in random((6, 48), (6, 48), (48,), (48,)))
    torch.manual_seed(3)
    total, normed = add_norm(residual, branch, weight, bias, 1e-12, dropout=0.4)
    torch.manual_seed(3)
    expected = residual + dropout(branch, 0.4)
    assert torch.equal(total, expected)
    assert torch.equal(normed, torch.nn.functional.layer_norm(expected, (48,), weight, bias, 1e-12))


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_norm_that_is_made_again_has_the_same_mask(dtype: torch.dtype, in_parts: bool) -> None:
    """As a whole layer: the map's bias gets its gradient through the mask, and an MLP reads on."""
    width, hidden = 24, 40
    shapes = ((width, 8), (width,), (hidden, width), (hidden,), (width, hidden), (width,))
    found = []
    for is_kept in (True, False):
        x, residual, *weights = random((3, 7, 8), (3, 7, width), *shapes)
        weights = [weight.to(dtype).requires_grad_() for weight in weights]
        affine = [tensor.requires_grad_() for tensor in random((width,), (width,))]
        torch.manual_seed(6)
        branch = linear(x.to(dtype), *weights[:2], backend="triton")
        settings = {"norm_dtype": dtype, "residual_is_kept": in_parts, "dropout": 0.4}
        total, normed = add_norm(residual, branch, *affine, 1e-6, backend="triton", **settings)
        normed = normed.view_as(normed) if is_kept else normed
        out = mlp(rounded(normed, dtype), *weights[2:], backend="triton")
        (upstream,) = random((*out.shape, 1))
        loss = (out * upstream[..., 0]).sum() + (total * upstream[..., 0]).sum()
        found.append(torch.autograd.grad(loss, [*weights, *affine]))
    for kept, again in zip(*found, strict=True):
        # A GPU's compiler may make a norm again to the last bit but one.
        assert torch.equal(kept, again) if DEVICE == "cpu" else close(kept, again)
