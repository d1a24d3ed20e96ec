"""Attention of packed sequences: every backend that runs here against a loop over sequences."""

import pytest
import torch

from kernels import attention, attention_packed

GPU = torch.cuda.is_available()
ON_A_GPU = ["sdpa_flash", "flash_attn_2", "flash_attn_3", "flash_attn_4", "xformers", "flex"]
LENGTHS = {
    "several": [5, 2, 9, 1],
    "one": [7],
    "all of one token": [1, 1, 1],
    "equal": [4, 4],
}
Case = tuple[list[torch.Tensor], tuple[torch.Tensor, torch.Tensor], tuple[int, int]]


def case(queries: list[int], keys: list[int] | None = None, heads: int = 2, width: int = 8) -> Case:
    """Random tokens of sequences of these lengths; without keys the sequences see themselves."""
    generator = torch.Generator().manual_seed(sum(queries))
    of_queries = starts(queries)
    of_keys = of_queries if keys is None else starts(keys)
    counts = sum(queries), sum(keys or queries), sum(keys or queries)
    tokens = [torch.randn(count, heads, width, generator=generator) for count in counts]
    return tokens, (of_queries, of_keys), (max(queries), max(keys or queries))


def starts(lengths: list[int]) -> torch.Tensor:
    """[0, l0, l0 + l1, ...] int32."""
    return torch.tensor([0, *lengths]).cumsum(0).int()


def outcome(
    backend: str, tokens: list[torch.Tensor], *where: object, **settings: object
) -> list[torch.Tensor]:
    """The attended tokens, and gradients under a random upstream one."""
    leaves = [tensor.clone().requires_grad_() for tensor in tokens]
    out = attention_packed(*leaves, *where, backend=backend, **settings)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", LENGTHS)
def test_padded_equals_the_definition(kind: str, causal: bool) -> None:
    tokens, *where = case(LENGTHS[kind])
    exact = outcome("reference", [t.double() for t in tokens], *where, causal=causal)
    for got, want in zip(outcome("auto", tokens, *where, causal=causal), exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_queries_and_keys_of_different_lengths() -> None:
    tokens, *where = case([3, 1, 4], [2, 6, 5])
    exact = outcome("reference", [t.double() for t in tokens], *where)
    for got, want in zip(outcome("padded", tokens, *where), exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


def test_the_definition_is_attention_of_each_sequence_alone() -> None:
    tokens, where, longest = case([3, 5])
    whole = attention_packed(*tokens, where, longest, causal=True, backend="reference")
    for part in (slice(0, 3), slice(3, 8)):
        alone = [tensor[part].transpose(0, 1)[None] for tensor in tokens]
        want = attention(*alone, causal=True)[0].transpose(0, 1)
        torch.testing.assert_close(whole[part], want)


@pytest.mark.parametrize("causal", [False, True])
def test_flex_equals_the_definition_forward(causal: bool) -> None:
    tokens, *where = case([5, 2, 9, 1])
    got = attention_packed(*tokens, *where, causal=causal, backend="flex")
    want = attention_packed(*tokens, *where, causal=causal, backend="reference")
    torch.testing.assert_close(got, want)


def test_a_longest_that_is_too_long_changes_nothing() -> None:
    tokens, where, _ = case([5, 2, 9, 1])
    exact = attention_packed(*tokens, where, (9, 9), backend="reference")
    torch.testing.assert_close(attention_packed(*tokens, where, (12, 30)), exact)


def test_dropout_leaves_the_mean() -> None:
    tokens, *where = case([4, 2])
    torch.manual_seed(0)
    whole = attention_packed(*tokens, *where)
    drawn = [attention_packed(*tokens, *where, dropout=0.3) for _ in range(600)]
    assert not torch.equal(drawn[0], whole)
    torch.testing.assert_close(torch.stack(drawn).mean(0), whole, rtol=0.1, atol=0.12)


@pytest.mark.skipif(GPU, reason="a GPU is here: these can run")
@pytest.mark.parametrize("name", ON_A_GPU[:-1])
def test_what_needs_a_gpu_says_so(name: str) -> None:
    tokens, *where = case([4, 2])
    message = f"attention_packed: backend '{name}' cannot run here: it needs an NVIDIA GPU"
    with pytest.raises(RuntimeError, match=message):
        attention_packed(*tokens, *where, backend=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_THK": torch.zeros(6, 16)}, r"must be \[tokens, H, K\]"),
        ({"key_SHK": torch.zeros(5, 2, 8)}, r"must be \[tokens, H, K\]"),
        ({"starts": (starts([4, 2]).long(), starts([4, 2]))}, "two int32 tensors"),
        ({"starts": (starts([4, 2]), starts([6]))}, "of the same length"),
        ({"starts": (starts([4, 2]), starts([2, 4])), "causal": True}, "the same starts"),
        ({"backend": "flash"}, "unknown backend 'flash': choose auto, padded, sdpa_flash"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    tokens, where, longest = case([4, 2])
    names = ("query_THK", "key_SHK", "value_SHK")
    good = {**dict(zip(names, tokens, strict=True)), "starts": where, "longest": longest}
    with pytest.raises(ValueError, match=message):
        attention_packed(**{**good, **change})


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ON_A_GPU)
def test_on_a_gpu_as_wrong_as_the_definition_in_bf16(name: str, causal: bool) -> None:
    tokens, where, longest = case([13, 30, 1, 18, 9], heads=12, width=64)
    tokens, of = [tensor.to("cuda", torch.bfloat16) for tensor in tokens], where[0].cuda()
    where = (of, of), longest
    try:
        ours = outcome(name, tokens, *where, causal=causal)
    except RuntimeError as error:
        # Not installed, for another GPU, or built for another PyTorch.
        known = ("cannot be imported", "compute capability", "wasn't build with CUDA")
        if not any(reason in str(error) for reason in known):
            raise
        pytest.skip(str(error))
    truth = outcome("reference", [t.double() for t in tokens], *where, causal=causal)
    plain = outcome("reference", tokens, *where, causal=causal)
    for want, torchs, got in zip(truth, plain, ours, strict=True):
        allowed = 2 * (torchs.double() - want).abs().max() + 4e-3
        assert (got.double() - want).abs().max() <= allowed
