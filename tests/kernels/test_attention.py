"""Attention: every backend that runs here against the definition in float64."""

import logging

import pytest
import torch

from kernels import attention, backend
from kernels.attention import blocks

BACKENDS = ["math", "sdpa"]
NAMED = ["sdpa_flash", "sdpa_math"]
PACKAGES = ["flash_attn_2", "flash_attn_3", "flash_attn_4", "xformers"]
ON_A_GPU = ["sdpa_flash", "sdpa_cudnn", "sdpa_efficient", *PACKAGES, "flex"]
GPU = torch.cuda.is_available()


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


@pytest.mark.parametrize("backend", BACKENDS + NAMED)
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


@pytest.mark.parametrize(("length", "causal", "masked"), [(7, True, False), (5, False, True)])
def test_flex_equals_the_definition_forward(length: int, causal: bool, masked: bool) -> None:
    tensors = [tensor.detach() for tensor in inputs(length, 7 if causal else 13)]
    source = tensors[1].shape[2]
    mask = torch.arange(source) < torch.tensor([[source], [1], [3]]) if masked else None
    got = attention(*tensors, causal=causal, key_mask=mask, backend="flex")
    want = definition(tensors, causal, mask)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(GPU, reason="a GPU is here: these can run")
@pytest.mark.parametrize("name", [*PACKAGES, "sdpa_cudnn", "sdpa_efficient"])
def test_what_needs_a_gpu_says_so(name: str) -> None:
    message = f"attention: backend '{name}' cannot run here: it needs an NVIDIA GPU"
    with pytest.raises(RuntimeError, match=message):
        attention(*inputs(4, 4), backend=name)


def test_a_forced_backend_raises_with_the_reason_of_its_kernel() -> None:
    tensors = [tensor.cpu() for tensor in inputs(4, 4)]
    with pytest.raises(RuntimeError, match="'sdpa_flash' cannot run here: .*non-zero dropout"):
        attention(*tensors, dropout=0.5, backend="sdpa_flash")
    with pytest.raises(RuntimeError, match="'flex' cannot run here: it has no backward pass on"):
        attention(*tensors, backend="flex")
    with torch.no_grad(), pytest.raises(RuntimeError, match="it has no dropout"):
        attention(*tensors, dropout=0.5, backend="flex")


def test_the_choice_is_announced_once(caplog: pytest.LogCaptureFixture) -> None:
    backend._announce.cache_clear()
    with caplog.at_level(logging.INFO, logger=backend.__name__):
        for length in (4, 1025, 4):
            attention(*(tensor.detach().cpu() for tensor in inputs(1, length)))
    told = [record.getMessage() for record in caplog.records]
    assert told == ["attention on cpu: math", "attention on cpu: sdpa"]


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ON_A_GPU)
def test_on_a_gpu_as_wrong_as_the_definition_in_bf16(name: str, causal: bool) -> None:
    def outcome(backend: str, dtype: torch.dtype) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        leaves = [
            torch.randn(4, 3, 197, 64, generator=generator).to("cuda", torch.bfloat16)
            for _ in range(4)
        ]
        leaves, upstream = [leaf.to(dtype).requires_grad_() for leaf in leaves[:3]], leaves[3]
        out = attention(*leaves, causal=causal, backend=backend)
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(dtype))]

    try:
        ours = outcome(name, torch.bfloat16)
    except RuntimeError as error:
        # Not installed, for another GPU, or built for another PyTorch.
        known = ("cannot be imported", "compute capability", "wasn't build with CUDA")
        if not any(reason in str(error) for reason in known):
            raise
        pytest.skip(str(error))
    truth, plain = outcome("math", torch.float64), outcome("math", torch.bfloat16)
    for want, torchs, got in zip(truth, plain, ours, strict=True):
        allowed = 2 * (torchs.double() - want).abs().max() + 4e-3
        assert (got.double() - want).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_apart_are_the_heads_together(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without gradients, scores are made for some heads at a time: 4 and then 2 here."""
    tensors = [tensor.detach() for tensor in inputs(7, 5, dtype)]
    whole = attention(*tensors, backend="math")
    monkeypatch.setattr(blocks, "SCORES_AT_ONCE", 4 * 7 * 5 * tensors[0].element_size())
    with torch.no_grad():
        apart = attention(*tensors, backend="math")
    torch.testing.assert_close(apart, whole, rtol=0, atol=0)
    torch.testing.assert_close(
        apart.double(), definition(tensors, False, None), rtol=4e-2, atol=4e-2
    )


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [8, 20, 28])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_gpu_takes_by_itself_for_padded_texts(
    dtype: torch.dtype, length: int, causal: bool
) -> None:
    """Heads side by side in memory, as the network has them, and keys that are not there."""
    generator = torch.Generator().manual_seed(length)
    shape = (16, length, 12 * 64)
    given = [torch.randn(shape, generator=generator).to("cuda", dtype) for _ in range(4)]
    lengths = torch.randint(1, length + 1, (16,), generator=generator)
    there = (torch.arange(length) < lengths[:, None]).to("cuda")

    def outcome(backend: str, kind: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.to(kind).requires_grad_() for tensor in given[:3]]
        of_heads = [leaf.unflatten(2, (12, 64)).transpose(1, 2) for leaf in leaves]
        out = attention(*of_heads, causal=causal, key_mask=there, backend=backend)
        out = out.transpose(1, 2).flatten(2) * there[:, :, None]
        return [out.detach(), *torch.autograd.grad(out, leaves, given[3].to(kind))]

    truth, plain = outcome("math", torch.float64), outcome("math", dtype)
    for want, torchs, got in zip(truth, plain, outcome("auto", dtype), strict=True):
        allowed = 2 * (torchs.double() - want).abs().max() + (4e-3 if dtype.itemsize == 2 else 1e-5)
        assert (got.double() - want).abs().max() <= allowed
