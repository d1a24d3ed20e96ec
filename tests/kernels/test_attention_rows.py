"""Attention of short packed rows: every backend that runs here against a loop over rows."""

import pytest
import torch

from kernels import attention, attention_rows

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
FAST = ["triton", "padded"]
FLOOR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 4e-3}
# Lengths of rows, and how many tokens of no row stand behind each.
LAYOUTS = {
    "odd": ([5, 2, 9, 1, 16], [0, 0, 0, 0, 0]),
    "short and long": ([3, 30, 17, 1], [0, 0, 0, 0]),
    "spare places": ([4, 21, 1, 7], [0, 3, 40, 17]),
    "one row": ([1], [2]),
    "longest": ([64, 33, 5], [1, 0, 0]),
}
Rows = tuple[torch.Tensor, torch.Tensor]


def layout(lengths: list[int], gaps: list[int]) -> tuple[Rows, torch.Tensor]:
    """Firsts and lengths, and [T] which tokens belong to a row."""
    spans = torch.tensor(lengths) + torch.tensor(gaps)
    first = spans.cumsum(0) - spans
    used = torch.zeros(int(spans.sum()), dtype=torch.bool)
    for start, length in zip(first.tolist(), lengths, strict=True):
        used[start : start + length] = True
    return (first.to(DEVICE), torch.tensor(lengths, device=DEVICE)), used.to(DEVICE)


def tokens(count: int, heads: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed + count)
    return torch.randn(count, heads, width, generator=generator).to(DEVICE)


def outcome(
    backend: str, inputs: list[torch.Tensor], *where: object, **settings: object
) -> list[torch.Tensor]:
    """The attended queries, and gradients under a random upstream one."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = attention_rows(*leaves, *where, backend=backend, **settings)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def compare(backend: str, inputs: list[torch.Tensor], *where: object, **settings: object) -> None:
    """At most twice as wrong as the definition in the same dtype, against float64."""
    truth = outcome("reference", [t.double() for t in inputs], *where, **settings)
    plain = outcome("reference", inputs, *where, **settings)
    ours = outcome(backend, inputs, *where, **settings)
    for want, torchs, got in zip(truth, plain, ours, strict=True):
        assert got.dtype == torchs.dtype
        allowed = 2 * (torchs.double() - want).abs().max() + FLOOR[got.dtype]
        assert (got.double() - want).abs().max() <= allowed


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("backend", FAST)
def test_equals_the_definition(backend: str, kind: str, causal: bool) -> None:
    rows, used = layout(*LAYOUTS[kind])
    longest = max(LAYOUTS[kind][0])
    dtype = torch.float16 if longest > 32 else torch.float32
    inputs = [tokens(len(used), 2, 16, seed).to(dtype) for seed in range(3)]
    where = (*rows, *rows, (longest, longest))
    compare(backend, inputs, *where, causal=causal)
    for result in outcome(backend, inputs, *where, causal=causal):
        assert (result[~used] == 0).all()


@pytest.mark.parametrize("heads_and_width", [(1, 64), (3, 32), (2, 20), (12, 8)])
def test_heads_and_widths(heads_and_width: tuple[int, int]) -> None:
    rows, used = layout(*LAYOUTS["short and long"])
    inputs = [tokens(len(used), *heads_and_width, seed) for seed in range(3)]
    compare("triton", inputs, *rows, *rows, (30, 30))


@pytest.mark.parametrize("backend", FAST)
@pytest.mark.parametrize(
    ("queries", "longest"), [([1, 1, 1, 1], (1, 30)), ([2, 20, 1, 5], (20, 30))]
)
def test_other_queries_than_keys(
    backend: str, queries: list[int], longest: tuple[int, int]
) -> None:
    """One first token a row, and any others; the longest of one may be in a short row of both."""
    asking, count = layout(queries, [0, 0, 2, 0])
    rows, used = layout(*LAYOUTS["short and long"])
    inputs = [tokens(len(count), 2, 16), tokens(len(used), 2, 16, 1), tokens(len(used), 2, 16, 2)]
    compare(backend, inputs, *asking, *rows, longest)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_padded_is_attention_of_padded_rows_to_the_bit(dropout: float) -> None:
    """On a CPU `auto` must not change a bit."""
    rows, used = layout([5, 2, 9], [0, 3, 1])
    rows, count = [tensor.cpu() for tensor in rows], len(used)
    inputs = [tokens(count, 2, 16, seed).cpu().requires_grad_() for seed in range(3)]
    seen = torch.arange(9) < rows[1][:, None]
    padded = []
    for tensor in inputs:
        full = tensor.new_zeros(3, 9, 2, 16)
        full[seen] = tensor.detach()[used.cpu()]
        padded.append(full.transpose(1, 2).requires_grad_())
    torch.manual_seed(5)
    ours = attention_rows(*inputs, *rows, *rows, (9, 9), dropout=dropout)
    torch.manual_seed(5)
    before = attention(*padded, key_mask=seen, dropout=dropout).transpose(1, 2)
    assert torch.equal(ours[used.cpu()], before[seen])
    gradients = torch.autograd.grad(ours.square().sum(), inputs)
    expected = torch.autograd.grad(before[seen].square().sum(), padded)
    for got, want in zip(gradients, expected, strict=True):
        assert torch.equal(got[used.cpu()], want.transpose(1, 2)[seen])
        assert not got[~used.cpu()].any()


def test_long_queries_of_short_rows() -> None:
    (asking, count), (rows, used) = layout([20, 3], [0, 0]), layout([4, 9], [0, 0])
    inputs = [tokens(len(count), 2, 16), tokens(len(used), 2, 16, 1), tokens(len(used), 2, 16, 2)]
    compare("triton", inputs, *asking, *rows, (20, 9))


@pytest.mark.parametrize("backend", FAST)
def test_what_stands_in_spare_places_is_not_read(backend: str) -> None:
    rows, used = layout(*LAYOUTS["spare places"])
    inputs = [tokens(len(used), 2, 16, seed) for seed in range(3)]
    poisoned = [t.masked_fill(~used[:, None, None], 1e30) for t in inputs]
    clean = outcome(backend, inputs, *rows, *rows, (21, 21))
    for got, want in zip(outcome(backend, poisoned, *rows, *rows, (21, 21)), clean, strict=True):
        assert torch.equal(got, want)


def test_views_of_one_product_and_int32() -> None:
    rows, used = layout(*LAYOUTS["spare places"])
    joined = tokens(len(used), 2, 48).flatten(1)
    views = [part.unflatten(1, (2, 16)) for part in joined.split(32, 1)]
    assert not views[0].is_contiguous()
    narrow = [tensor.int() for tensor in rows]
    ours = attention_rows(*views, *narrow, *narrow, (21, 21), backend="triton")
    where = (*rows, *rows, (21, 21))
    plain = attention_rows(*(v.contiguous() for v in views), *where, backend="reference")
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)
    mixed = [v.transpose(0, 1).contiguous().transpose(0, 1) for v in views]
    torch.testing.assert_close(attention_rows(*mixed, *where, backend="triton"), plain)


def test_no_rows_and_equal_runs() -> None:
    nothing = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    inputs = [tokens(3, 2, 16, seed) for seed in range(3)]
    for result in outcome("triton", inputs, *(nothing,) * 4, (1, 1)):
        assert result.shape == (3, 2, 16)
        assert not result.any()


def mask_of(rows: Rows, count: int, heads: int, seed: int, dropout: float) -> torch.Tensor:
    """[T, heads, 64] weights after dropout: what attention gives to values of the identity."""
    flat = torch.zeros(count, heads, 64, device=DEVICE, dtype=torch.float16)
    places = torch.arange(count, device=DEVICE)
    for first, length in zip(*(t.tolist() for t in rows), strict=True):
        here = places[first : first + length]
        flat[here, :, here - first] = 1.0
    torch.manual_seed(seed)
    zeros = torch.zeros_like(flat)
    settings = {"dropout": dropout, "backend": "triton"}
    return attention_rows(zeros, zeros, flat, *rows, *rows, (64, 64), **settings)


def test_dropout_keeps_its_share_and_scales() -> None:
    rows, used = layout([64, 64, 10, 64], [0, 0, 0, 0])
    weights = mask_of(rows, len(used), 4, 3, 0.3)
    full = weights[rows[0][0] : 64] * 64 * 0.7
    assert ((full - 1).abs().lt(2e-3) | full.eq(0)).all()
    kept = torch.cat([weights[:128], weights[138:]]).ne(0).float().mean()
    # 49152 draws: a standard deviation is 0.002.
    assert 0.69 < kept < 0.71
    assert torch.equal(weights, mask_of(rows, len(used), 4, 3, 0.3))
    assert not torch.equal(weights, mask_of(rows, len(used), 4, 4, 0.3))
    one, other = weights[:64].ne(0), weights[64:128].ne(0)
    # Independent masks agree on 0.58 of the places.
    assert 0.55 < (one == other).float().mean() < 0.61
    heads = weights[:128].ne(0)
    for head in range(1, 4):
        assert 0.55 < (heads[:, 0] == heads[:, head]).float().mean() < 0.61
    rolled = heads.roll(1, 0) == heads
    assert 0.55 < rolled.float().mean() < 0.61
    assert 0.55 < (heads.roll(1, 2) == heads).float().mean() < 0.61


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_under_dropout_have_the_mask_of_the_forward_pass(causal: bool) -> None:
    """The mask is seen in a call of its own with the same seed and other tiles."""
    rows, used = layout([7, 30, 1, 18], [0, 2, 0, 5])
    kept = mask_of(rows, len(used), 3, 11, 0.4).ne(0)
    inputs = [tokens(len(used), 3, 16, seed) for seed in range(3)]
    torch.manual_seed(11)
    ours = outcome("triton", inputs, *rows, *rows, (30, 30), causal=causal, dropout=0.4)
    leaves = [t.double().requires_grad_() for t in inputs]
    out = torch.zeros_like(leaves[0])
    for first, length in zip(*(t.tolist() for t in rows), strict=True):
        query, key, value = (t[first : first + length].transpose(0, 1) for t in leaves)
        unseen = torch.ones(length, length, device=DEVICE).triu(1).bool() & causal
        scores = (query @ key.mT / 4).masked_fill(unseen, float("-inf"))
        mask = kept[first : first + length, :, :length].transpose(0, 1)
        part = (scores.softmax(-1) * mask / 0.6 @ value).transpose(0, 1)
        places = torch.arange(first, first + length, device=DEVICE)
        out = out.index_copy(0, places, part)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    exact = [out.detach(), *torch.autograd.grad(out, leaves, upstream)]
    for got, want in zip(ours, exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_THK": torch.zeros(6, 3, 8)}, r"key \(6, 3, 8\) and value \(6, 2, 8\) must be"),
        ({"first_R": torch.zeros(3, dtype=torch.int64)}, "four .* tensors of integers"),
        ({"length_R": torch.ones(2)}, "four .* tensors of integers"),
        ({"first_R": torch.tensor([0, 4]), "causal": True}, "the same rows"),
        ({"longest": (4, 5), "causal": True}, "the same rows"),
        ({"longest": (0, 4)}, "out of range"),
        ({"dropout": 1.0}, "out of range"),
        ({"backend": "flash"}, "unknown backend 'flash': choose auto, triton, padded"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    first, length = torch.tensor([0, 4]), torch.tensor([4, 2])
    names = ("query_QHK", "key_THK", "value_THK")
    good = dict.fromkeys(names, torch.zeros(6, 2, 8))
    good |= {"query_first_R": first, "query_length_R": length, "longest": (4, 4)}
    with pytest.raises(ValueError, match=message):
        attention_rows(**{**good, "first_R": first, "length_R": length, **change})


@pytest.mark.parametrize(
    ("width", "longest", "message"),
    [(8, 33, "33 float32 tokens are longer than 32"), (80, 4, "80 are wider than 64")],
)
def test_too_large_for_a_program(width: int, longest: int, message: str) -> None:
    (first, length), _ = layout([4, 2], [0, 0])
    where = (first, length, first, length, (longest, longest))
    with pytest.raises(RuntimeError, match=message):
        attention_rows(*[torch.zeros(6, 2, width, device=DEVICE)] * 3, *where, backend="triton")


def test_a_forced_backend_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    where = (torch.tensor([0]), torch.tensor([2])) * 2
    with pytest.raises(RuntimeError, match="attention_rows: .* tensors are on cpu"):
        attention_rows(*[torch.zeros(2, 1, 8)] * 3, *where, (2, 2), backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("heads_and_width", [(12, 64), (2, 16)])
def test_on_a_gpu_as_wrong_as_the_definition_in_bf16(
    heads_and_width: tuple[int, int], kind: str, causal: bool
) -> None:
    rows, used = layout(*LAYOUTS[kind])
    inputs = [tokens(len(used), *heads_and_width, seed).bfloat16() for seed in range(3)]
    where = (*rows, *rows, (max(LAYOUTS[kind][0]),) * 2)
    compare("auto", inputs, *where, causal=causal)
    ours = outcome("auto", inputs, *where, causal=causal)
    again = outcome("auto", inputs, *where, causal=causal)
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
def test_a_replayed_graph_draws_anew_and_auto_takes_the_kernel_under_autocast() -> None:
    rows, used = layout(*LAYOUTS["short and long"])
    inputs = [tokens(len(used), 2, 16, seed) for seed in range(3)]

    def attend() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return attention_rows(*inputs, *rows, *rows, (30, 30), dropout=0.5)

    assert attend().dtype == torch.bfloat16
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend()
    graph.replay()
    first = out.clone()
    graph.replay()
    assert not torch.equal(first, out)
