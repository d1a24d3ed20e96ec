"""The captioning loss: every backend against the definition, values and gradients."""

from typing import Any

import pytest
import torch

from kernels import lm_loss
from kernels.lm_loss import chunked

ROUNDING = 1e-6
BACKENDS = ["triton", "torch"]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def case(tokens: int, width: int, vocabulary: int, dtype: torch.dtype = torch.float32) -> Any:
    """States, words, bias, targets with some ignored, and uneven weights."""
    generator = torch.Generator().manual_seed(tokens * 1000 + width + vocabulary)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(dtype)

    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    targets[2::5] = -100
    weights = torch.rand(tokens, generator=generator)
    parts = (normal(tokens, width), normal(vocabulary, width, scale=0.3), normal(vocabulary))
    return [tensor.to(DEVICE) for tensor in (*parts, targets, weights)]


def outcome(inputs: Any, backend: str, smoothing: float = 0.1) -> list[torch.Tensor]:
    """Loss, gradients of states, words and bias, with an upstream gradient of 1.7."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs[:3]]
    loss = lm_loss(*leaves, *inputs[3:], label_smoothing=smoothing, backend=backend)
    (loss * 1.7).backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


def compare(inputs: Any, backend: str, smoothing: float = 0.1) -> None:
    """No more than twice the error of the definition in the same dtype, and its dtypes."""
    exact_inputs = [tensor.double() for tensor in inputs[:3]] + inputs[3:]
    exact = outcome(exact_inputs, "reference", smoothing)
    plain, ours = outcome(inputs, "reference", smoothing), outcome(inputs, backend, smoothing)
    for number, (want, torchs, got) in enumerate(zip(exact, plain, ours, strict=True)):
        name = ("loss", "states", "weight", "bias")[number]
        assert got.dtype == torchs.dtype, name
        if not want.numel():
            continue
        floor = ROUNDING * max(1.0, want.abs().max().item())
        allowed = 2 * (torchs.double() - want).abs().max().item() + floor
        assert (got.double() - want).abs().max().item() <= allowed, name


def test_the_definition_is_the_formula() -> None:
    states, weight, bias, targets, weights = case(7, 5, 11)
    z = (states.double() @ weight.double().T + bias.double()).cpu()
    p = z.exp() / z.exp().sum(1, keepdim=True)
    by_logit, loss = torch.zeros_like(z), 0.0
    for row, target in enumerate(targets.tolist()):
        if target != -100:
            smooth = torch.full((11,), 0.2 / 11, dtype=torch.float64)
            smooth[target] += 0.8
            loss -= weights[row].item() * (smooth * p[row].log()).sum()
            by_logit[row] = weights[row].item() * 1.7 * (p[row] - smooth)
    inputs = [states.double(), weight.double(), bias.double(), targets, weights]
    got = outcome(inputs, "reference", 0.2)
    wanted = [loss, by_logit @ inputs[1].cpu(), by_logit.T @ inputs[0].cpu(), by_logit.sum(0)]
    for ours, want in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours.cpu(), want, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("tokens", "width", "vocabulary"),
    [(0, 4, 9), (1, 1, 1), (3, 7, 64), (5, 16, 65), (9, 8, 4100), (2, 3, 30524)],
)
def test_equals_the_definition(backend: str, tokens: int, width: int, vocabulary: int) -> None:
    compare(case(tokens, width, vocabulary), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.9])
def test_at_the_limits_of_smoothing(backend: str, smoothing: float) -> None:
    compare(case(6, 8, 70), backend, smoothing)


@pytest.mark.parametrize("backend", BACKENDS)
def test_chunks_add_up(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROWS", "GPU_ROWS"):
        monkeypatch.setattr(chunked, name, 4)
    compare(case(11, 8, 70), backend)


def test_even_products_read_zeros_behind_the_last_word() -> None:
    """A GPU's library is slow over 30,524 words: whole rows are multiplied, and add nothing."""
    from kernels.lm_loss import triton_kernels

    states, weight, bias, targets, weights = case(11, 8, 70)
    buffers: list[torch.Tensor] = []

    def settle(logits: torch.Tensor, *rest: Any) -> torch.Tensor:
        buffers.append(torch.as_strided(logits, (len(logits), logits.stride(0)), logits.stride()))
        assert not buffers[-1][:, 70:].any(), "words that there are not have no logits"
        return triton_kernels.settle(logits, *rest)

    inputs = (states, weight, bias, targets, weights, 0.1, (True, True, True))
    loss, found = chunked.loss_and_gradients(*inputs, settle, True)
    assert [tuple(gradient.shape) for gradient in found] == [(11, 8), (70, 8), (70,)]
    assert all(buffer.shape[1] == 128 and not buffer[:, 70:].any() for buffer in buffers)
    plain, wanted = chunked.loss_and_gradients(*inputs, chunked.settle, False)
    for got, want in zip([loss, *found], [plain, *wanted], strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_logits_do_not_overflow(backend: str) -> None:
    states, *rest = case(5, 8, 70)
    compare([states * 200, *rest], backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_of_any_strides(backend: str) -> None:
    states, weight, bias, targets, weights = case(6, 8, 70)
    spread = [tensor.repeat_interleave(2, 0)[::2] for tensor in (bias, targets, weights)]
    strided = [states.T.contiguous().T, weight.T.contiguous().T, *spread]
    for got, want in zip(
        outcome(strided, backend), outcome([states, weight, bias, targets, weights], backend),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_ignored_is_zero(backend: str) -> None:
    inputs = case(4, 8, 70)
    inputs[3] = torch.full_like(inputs[3], -100)
    assert not any(tensor.any() for tensor in outcome(inputs, backend))


def test_a_target_that_is_no_word_is_nan_where_nobody_looks_at_it() -> None:
    from kernels.lm_loss import triton_kernels

    logits, bias = torch.zeros(4, 64, device=DEVICE), torch.zeros(64, device=DEVICE)
    targets = torch.tensor([5, 64, -1, -100], device=DEVICE)
    losses = triton_kernels.settle(logits, bias, targets, torch.ones(4, device=DEVICE), 0.1, True)
    assert losses.isnan().tolist() == [False, True, True, False]
    assert logits.isnan().all(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_is_as_wrong_as_torch_in_bf16(autocast: bool) -> None:
    kind = torch.float32 if autocast else torch.bfloat16
    inputs = case(40, 32, 300, kind)
    for backend in ["torch"] + ["triton"] * (DEVICE == "cuda"):
        with torch.autocast(DEVICE, torch.bfloat16, enabled=autocast):
            ours, plain = outcome(inputs, backend), outcome(inputs, "reference")
        rounded = [tensor.bfloat16().double() for tensor in inputs[:3]]
        exact = outcome(rounded + inputs[3:], "reference")
        for want, torchs, got in zip(exact, plain, ours, strict=True):
            assert got.dtype == torchs.dtype
            allowed = 2 * (torchs.double() - want).abs().max().item() + 1e-3
            assert (got.double() - want).abs().max().item() <= allowed


def test_only_what_is_needed_is_computed() -> None:
    states, weight, bias, *rest = case(4, 8, 70)
    states.requires_grad_()
    lm_loss(states, weight, bias, *rest, backend="torch").backward()
    assert states.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not lm_loss(states, weight, bias, *rest, backend="torch").requires_grad


def test_logits_of_all_tokens_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROWS", "GPU_ROWS"):
        monkeypatch.setattr(chunked, name, 16)
    seen: list[int] = []
    settle = chunked.settle
    monkeypatch.setattr(
        chunked, "settle", lambda logits, *rest: seen.append(len(logits)) or settle(logits, *rest)
    )
    outcome(case(50, 4, 33), "torch")
    assert seen == [13, 13, 13, 11]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(4, 3)}, r"must be \[T, D\]"),
        ({0: torch.zeros(3, 2, 8)}, r"must be \[T, D\]"),
        ({2: torch.zeros(9)}, r"bias \(9,\) must be \[70\]"),
        ({3: torch.zeros(3, dtype=torch.long)}, r"targets \(3,\) must be \[4\]"),
        ({4: torch.zeros(4, 1)}, r"weights \(4, 1\) must be \[4\]"),
        ({3: torch.zeros(4)}, "int64 and floating"),
        ({0: torch.zeros(4, 8, dtype=torch.float16)}, "float32, bfloat16 and float64"),
        ({0: torch.zeros(4, 8, dtype=torch.bfloat16)}, "at once without autocast"),
        ({4: torch.zeros(4, requires_grad=True)}, "weights get no gradient"),
        ({3: torch.tensor([0, 1, -1, 2])}, "neither a word below 70 nor -100"),
        ({3: torch.tensor([0, 1, 70, 2])}, "neither a word below 70 nor -100"),
        ({1: torch.zeros(70, 8, device="meta")}, "different devices: cpu, meta"),
    ],
)
def test_wrong_input_is_named(change: dict[int, torch.Tensor], message: str) -> None:
    inputs = [tensor.cpu() for tensor in case(4, 8, 70)]
    for place, tensor in change.items():
        inputs[place] = tensor
    with pytest.raises(ValueError, match=message):
        lm_loss(*inputs)
    with pytest.raises(ValueError, match="outside"):
        lm_loss(*case(4, 8, 70), label_smoothing=1.0)


def test_a_forced_backend_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="it has no float64"):
        lm_loss(*(t.double() for t in case(4, 8, 70)[:3]), *case(4, 8, 70)[3:], backend="triton")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    inputs = [tensor.cpu() for tensor in case(4, 8, 70)]
    with pytest.raises(RuntimeError, match="cannot run here: tensors are on cpu"):
        lm_loss(*inputs, backend="triton")
    with pytest.raises(ValueError, match="unknown backend 'cuda'"):
        lm_loss(*inputs, backend="cuda")
