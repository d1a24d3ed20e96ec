"""Self-attention of joined queries, keys and values: the kernels against the definition."""

from itertools import pairwise

import pytest
import torch

from kernels import attention_joined
from kernels.attention_joined.triton_backward import mirrored
from kernels.attention_joined.triton_kernels import edges

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
FLOOR = {torch.float16: 2e-3, torch.bfloat16: 4e-3}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def outcome(backend: str, joined: torch.Tensor, heads: int) -> list[torch.Tensor]:
    """What the tokens see, and the gradient under a random upstream one."""
    leaf = joined.detach().clone().requires_grad_()
    out = attention_joined(leaf, heads, backend=backend)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaf, upstream)]


def compare(joined: torch.Tensor, heads: int) -> None:
    """At most twice as wrong as the definition in the same dtype, against float64."""
    truth = outcome("reference", joined.double(), heads)
    plain = outcome("reference", joined, heads)
    for want, torchs, got in zip(truth, plain, outcome("triton", joined, heads), strict=True):
        assert got.dtype == torchs.dtype and got.shape == torchs.shape
        allowed = 2 * (torchs.double() - want).abs().max() + FLOOR[got.dtype]
        assert (got.double() - want).abs().max() <= allowed


@pytest.mark.parametrize(
    ("tokens", "heads", "width"), [(1, 1, 16), (65, 2, 32), (64, 1, 64), (130, 3, 20), (197, 1, 64)]
)
def test_equals_the_definition(tokens: int, heads: int, width: int) -> None:
    compare(normal(2, tokens, 3 * heads * width).half(), heads)


def test_longest() -> None:
    compare(normal(1, 256, 3 * 64).half(), 1)


@pytest.mark.parametrize(
    ("tokens", "heads", "width"), [(257, 2, 64), (320, 1, 32), (577, 1, 64), (300, 3, 20)]
)
def test_longer_ones_without_a_way_back(tokens: int, heads: int, width: int) -> None:
    """Far scores come last, so that what was added up before must be scaled."""
    joined = normal(2, tokens, 3 * heads * width).half()
    joined[:, tokens // 2 :, : 2 * heads * width] *= 3
    truth, plain, got = (
        attention_joined(one, heads, backend=backend)
        for one, backend in (
            (joined.double(), "reference"),
            (joined, "reference"),
            (joined, "triton"),
        )
    )
    assert got.dtype == plain.dtype and got.shape == plain.shape
    allowed = 2 * (plain.double() - truth).abs().max() + FLOOR[got.dtype]
    assert (got.double() - truth).abs().max() <= allowed
    with pytest.raises(RuntimeError, match="more than 256"):
        attention_joined(joined.requires_grad_(), heads, backend="triton")


# NumPy tells of what a key that is not there weighs: nothing reads it.
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_far_from_zero(sign: int) -> None:
    """Weights of keys that are not there must not become infinite on the way back."""
    query, key, value = normal(2, 37, 2 * 48).half().abs().split(32, 2)
    compare(torch.cat([query * 20, key * 20 * sign, value], 2), 2)


def test_views_are_read_right() -> None:
    wide = normal(2, 6, 2 * 96).half()
    joined, turned = wide[:, ::2, :96], wide[..., :96].transpose(0, 1)
    for view in (joined, turned):
        for got, want in zip(
            outcome("triton", view, 2), outcome("triton", view.contiguous(), 2), strict=True
        ):
            assert torch.equal(got, want)


def test_a_gradient_that_is_one_number_over_and_over() -> None:
    leaf = normal(2, 20, 3 * 32).half().requires_grad_()
    by_ours, by_plain = (
        torch.autograd.grad(attention_joined(leaf, 2, backend=name).sum(), leaf)[0]
        for name in ("triton", "reference")
    )
    torch.testing.assert_close(by_ours, by_plain, rtol=1e-2, atol=4e-3)


@pytest.mark.parametrize("shape", [(0, 5, 96), (2, 0, 96)])
def test_nothing_to_attend(shape: tuple[int, ...]) -> None:
    out, gradient = outcome("triton", torch.zeros(shape, device=DEVICE).half(), 2)
    assert out.shape == (*shape[:2], 32) and gradient.shape == shape


def test_split_is_the_definition_to_the_bit_on_a_cpu() -> None:
    joined = torch.randn(2, 9, 96, generator=torch.Generator().manual_seed(0))
    for got, want in zip(outcome("auto", joined, 2), outcome("reference", joined, 2), strict=True):
        assert torch.equal(got, want)


def test_edges_cover_the_rows_with_little_to_spare() -> None:
    for largest in (64, 128):
        for length in range(1, 257):
            found = edges(length, largest)
            sizes = [after - before for before, after in pairwise(found)]
            assert found[0] == 0 and length <= found[-1] < length + 16
            assert all(16 <= size <= largest and not size & (size - 1) for size in sizes)
    assert edges(197, 128) == (0, 128, 192, 208)


def test_tiles_of_gradients_end_with_a_whole_one() -> None:
    for length in range(1, 257):
        found = mirrored(length)
        sizes = [after - before for before, after in pairwise(found)]
        assert found[0] == 0 and length <= found[-1] < max(length + 16, 65)
        assert sizes == sorted(sizes) and sizes[-1] == 64
    assert mirrored(197) == (0, 16, 80, 144, 208)


@pytest.mark.parametrize(
    ("shape", "heads", "message"),
    [
        ((2, 96), 2, r"\(2, 96\) must be \[B, P, 3 H K\] with 2 heads"),
        ((2, 5, 96), 5, "with 5 heads"),
        ((2, 5, 96), 0, "with 0 heads"),
    ],
)
def test_wrong_input_is_named(shape: tuple[int, ...], heads: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attention_joined(torch.zeros(shape), heads)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 5, 96), torch.float32, "it takes float16 and bfloat16, not float32"),
        ((1, 1025, 96), torch.float16, "1025 tokens are more than 1024"),
        ((1, 5, 3 * 2 * 65), torch.float16, "heads of 65 are wider than 64"),
    ],
)
def test_what_the_kernel_does_not_take(
    shape: tuple[int, ...], dtype: torch.dtype, message: str
) -> None:
    joined = torch.zeros(shape, dtype=dtype, device=DEVICE)
    with pytest.raises(RuntimeError, match=f"attention_joined: backend 'triton' .*{message}"):
        attention_joined(joined, 2, backend="triton")
    assert attention_joined(joined, 2).shape == (*shape[:2], shape[2] // 3)
    with pytest.raises(ValueError, match="choose auto, triton, split, reference"):
        attention_joined(joined, 2, backend="flash")


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("tokens", [65, 197, 256])
def test_on_a_gpu_as_wrong_as_the_definition_in_bf16(tokens: int) -> None:
    joined = normal(5, tokens, 3 * 12 * 64).bfloat16()
    compare(joined, 12)
    ours = outcome("triton", joined, 12)
    for _ in range(2):
        again = outcome("triton", joined, 12)
        assert all(torch.equal(one, other) for one, other in zip(again, ours, strict=True))
