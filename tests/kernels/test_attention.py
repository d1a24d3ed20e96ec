"""Attention: both backends against the definition in float64."""

import pytest
import torch

from kernels import attention

BACKENDS = ["math", "sdpa"]


def inputs(length: int, source: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Query, key and value of 3 rows and 2 heads."""
    generator = torch.Generator().manual_seed(length * 100 + source)
    shapes = ((3, 2, length, 8), (3, 2, source, 8), (3, 2, source, 8))
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def definition(
    tensors: list[torch.Tensor], causal: bool, key_mask: torch.Tensor | None
) -> torch.Tensor:
    """Loops over queries, in float64."""
    query, key, value = (tensor.double() for tensor in tensors)
    rows = []
    for i in range(query.shape[2]):
        scores = (query[:, :, i : i + 1] * key).sum(-1) / query.shape[-1] ** 0.5
        if key_mask is not None:
            scores = scores.masked_fill(~key_mask[:, None], float("-inf"))
        if causal:
            scores[:, :, i + 1 :] = float("-inf")
        rows.append((scores.softmax(-1)[..., None] * value).sum(2))
    return torch.stack(rows, 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("length", "source", "causal", "masked"),
    [(1, 1, False, False), (7, 7, True, False), (7, 7, True, True), (5, 13, False, True)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_definition(
    backend: str, length: int, source: int, causal: bool, masked: bool, dtype: torch.dtype
) -> None:
    tensors = inputs(length, source, dtype)
    mask = torch.arange(source) < torch.tensor([[source], [1], [max(1, source // 2)]])
    mask = mask if masked else None
    upstream = torch.randn(3, 2, length, 8, generator=torch.Generator().manual_seed(5))
    got = attention(*tensors, causal=causal, key_mask=mask, backend=backend)
    (got.double() * upstream).sum().backward()
    gradients = [tensor.grad for tensor in tensors]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    want = definition(exact, causal, mask)
    (want * upstream).sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(gradients, exact, strict=True):
        torch.testing.assert_close(ours.double(), theirs.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_leaves_the_mean(backend: str) -> None:
    query, key, value = (tensor.detach() for tensor in inputs(4, 6))
    torch.manual_seed(0)
    whole = attention(query, key, value, backend=backend)
    drawn = [attention(query, key, value, dropout=0.3, backend=backend) for _ in range(800)]
    assert not torch.equal(drawn[0], whole)
    torch.testing.assert_close(torch.stack(drawn).mean(0), whole, rtol=0.1, atol=0.12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_without_keys_is_finite(backend: str) -> None:
    tensors = inputs(4, 4)
    mask = torch.tensor([[True] * 4, [False] * 4, [True] * 4])
    assert attention(*tensors, key_mask=mask, backend=backend).isfinite().all()


def test_wrong_input_is_named() -> None:
    query, key, value = inputs(4, 6)
    with pytest.raises(ValueError, match="causal with 4 queries, 6 keys"):
        attention(query, key, value, causal=True)
    with pytest.raises(ValueError, match="must be"):
        attention(query[0], key, value)
    with pytest.raises(ValueError, match="key_mask"):
        attention(query, key, value, key_mask=torch.ones(3, 4))
    with pytest.raises(ValueError, match="unknown backend 'flash9'"):
        attention(query, key, value, backend="flash9")
