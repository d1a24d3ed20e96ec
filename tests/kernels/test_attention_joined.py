"""Self-attention of joined queries, keys and values: the kernels against the definition."""

import pytest
import torch

from kernels import attention_joined

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
