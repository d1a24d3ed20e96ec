"""Cross-attention of packed tokens to pictures: the kernels against a loop over pictures."""

import pytest
import torch

from kernels import attention_pictures, attention_pictures_runs, by_picture
from kernels.adjacent import side_by_side

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
FLOOR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 4e-3}
# Tokens that look at each picture, and at none; keys of a picture.
LAYOUTS = {
    "ragged": ([5, 0, 1, 40, 7], 0, 37),
    "spare tokens": ([3, 9, 0], 21, 5),
    "many spare tokens of one picture": ([2], 90, 33),
    "nobody looks": ([0, 0], 4, 9),
}
Blocks = tuple[torch.Tensor, torch.Tensor]


def layout(counts: list[int], spare: int) -> tuple[torch.Tensor, Blocks]:
    """The picture of each token, tokens in a mixed order, and how they are found."""
    numbers = torch.arange(len(counts) + 1).repeat_interleave(torch.tensor([*counts, spare]))
    mixed = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(len(numbers)))
    pictures = numbers[mixed].to(DEVICE)
    return pictures, by_picture(pictures, len(counts))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def inputs_of(kind: str, heads: int, width: int) -> tuple[list[torch.Tensor], torch.Tensor, Blocks]:
    counts, spare, keys = LAYOUTS[kind]
    pictures, blocks = layout(counts, spare)
    shape = (len(counts), keys, heads, width)
    tensors = [normal(len(pictures), heads, width), normal(*shape, seed=1), normal(*shape, seed=2)]
    return tensors, pictures == len(counts), blocks


def outcome(
    backend: str, inputs: list[torch.Tensor], blocks: Blocks, dropout: float = 0.0
) -> list[torch.Tensor]:
    """What the tokens see, and gradients under a random upstream one."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = attention_pictures(*leaves, *blocks, dropout=dropout, backend=backend)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream)]


def compare(inputs: list[torch.Tensor], blocks: Blocks) -> None:
    """At most twice as wrong as the definition in the same dtype, against float64."""
    truth = outcome("reference", [t.double() for t in inputs], blocks)
    plain = outcome("reference", inputs, blocks)
    for want, torchs, got in zip(truth, plain, outcome("triton", inputs, blocks), strict=True):
        assert got.dtype == torchs.dtype
        allowed = 2 * (torchs.double() - want).abs().max() + FLOOR[got.dtype]
        assert (got.double() - want).abs().max() <= allowed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_equals_the_definition(kind: str, dtype: torch.dtype) -> None:
    inputs, spare, blocks = inputs_of(kind, 2, 16)
    inputs = [tensor.to(dtype) for tensor in inputs]
    compare(inputs, blocks)
    out, by_query, *by_pictures = outcome("triton", inputs, blocks)
    assert not out[spare].any() and not by_query[spare].any()
    for picture, count in enumerate(LAYOUTS[kind][0]):
        for gradient in by_pictures:
            assert gradient[picture].any() == (count > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_more_tokens_than_a_tile_and_more_keys_than_two(dtype: torch.dtype) -> None:
    _, blocks = layout([70, 3], 1)
    inputs = [normal(74, 1, 64), normal(2, 135, 1, 64, seed=1), normal(2, 135, 1, 64, seed=2)]
    compare([tensor.to(dtype) for tensor in inputs], blocks)


@pytest.mark.parametrize("heads_and_width", [(3, 32), (2, 20), (5, 8)])
def test_heads_and_widths(heads_and_width: tuple[int, int]) -> None:
    inputs, _, blocks = inputs_of("spare tokens", *heads_and_width)
    compare(inputs, blocks)


# NumPy tells of what a key that is not there weighs: nothing reads it.
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_scores_far_from_zero() -> None:
    """Weights of keys that are not there must not become infinite on the way back."""
    inputs, _, blocks = inputs_of("ragged", 2, 16)
    for sign in (1, -1):
        query, key = inputs[0].abs() * 20, inputs[1].abs() * 20 * sign
        ours = outcome("triton", [query, key, inputs[2]], blocks)
        exact = outcome("reference", [query.double(), key.double(), inputs[2].double()], blocks)
        for got, want in zip(ours, exact, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-3, atol=1e-3)


def test_views_of_one_product_and_int32() -> None:
    _, blocks = layout([4, 0, 6], 3)
    asked = normal(13, 2 * 48)[:, :32].unflatten(1, (2, 16))
    views = [t.unflatten(2, (2, 16)) for t in normal(3, 11, 64, seed=1).split(32, 2)]
    assert not any(view.is_contiguous() for view in (asked, *views))
    plain = attention_pictures(asked, *views, *blocks, backend="reference")
    narrow = [tensor.int() for tensor in blocks]
    for inputs in ((asked, *views), [v.mT.contiguous().mT for v in (asked, *views)]):
        ours = attention_pictures(*inputs, *narrow, backend="triton")
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5)


def test_keys_and_values_of_one_product_get_gradients_that_it_reads_as_one() -> None:
    """Nothing of the size of all pictures is copied on either way."""
    _, blocks = layout([4, 0, 6], 3)
    whole = normal(3, 11, 64, seed=1).requires_grad_()
    pictures = [part.unflatten(2, (2, 16)) for part in whole.split(32, 2)]
    query = normal(13, 2, 16)
    by_parts = outcome("triton", [query, *pictures], blocks)[2:]
    joined = side_by_side([part.flatten(2) for part in by_parts], 2)
    assert joined.data_ptr() == by_parts[0].data_ptr()
    out = attention_pictures(query, *pictures, *blocks, backend="reference")
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out)
    (expected,) = torch.autograd.grad(out, whole, upstream)
    torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-5)


def test_what_spare_tokens_hold_is_not_read() -> None:
    inputs, spare, blocks = inputs_of("spare tokens", 2, 16)
    clean = outcome("triton", inputs, blocks)
    poisoned = [inputs[0].masked_fill(spare[:, None, None], float("nan")), *inputs[1:]]
    for got, want in zip(outcome("triton", poisoned, blocks), clean, strict=True):
        assert torch.equal(got, want)


def test_no_pictures() -> None:
    _, blocks = layout([], 3)
    inputs = [normal(3, 2, 16), normal(0, 5, 2, 16), normal(0, 5, 2, 16)]
    out, *gradients = outcome("triton", inputs, blocks)
    assert [t.shape for t in (out, *gradients)] == [t.shape for t in (inputs[0], *inputs)]
    assert not out.any() and not gradients[0].any()


def test_tokens_are_found_by_picture_in_their_own_order() -> None:
    order, starts = by_picture(torch.tensor([2, 0, 4, 2, 3, 0, 4, 2], device=DEVICE), 4)
    assert order.tolist() == [1, 5, 0, 3, 7, 4, 2, 6]
    assert starts.tolist() == [0, 2, 2, 5, 6]
    assert order.dtype == starts.dtype == torch.int64


@pytest.mark.parametrize("count", [32767, 32768, 100_000])
def test_many_pictures_are_found_too(count: int) -> None:
    """They are sorted by short numbers, which those of many do not fit."""
    pictures = torch.tensor([count, 3, count - 1, 0, 3, count - 1], device=DEVICE)
    order, starts = by_picture(pictures, count)
    assert order.tolist() == [3, 1, 4, 2, 5, 0]
    assert starts[[0, 1, 3, 4, count - 1, count]].tolist() == [0, 1, 1, 3, 3, 5]


def mask_of(
    blocks: Blocks, heads: int, pictures: int, keys: int, seed: int, dropout: float
) -> torch.Tensor:
    """[T, heads, keys] weights after dropout, times their number: from values of the identity."""
    tokens = len(blocks[0])
    zeros = torch.zeros(tokens, heads, 64, device=DEVICE)
    nothing = torch.zeros(pictures, keys, heads, 64, device=DEVICE)
    shown = []
    for first in range(0, keys, 64):
        identity = nothing.clone()
        for column in range(min(64, keys - first)):
            identity[:, first + column, :, column] = keys
        torch.manual_seed(seed)
        settings = {"dropout": dropout, "backend": "triton"}
        shown.append(attention_pictures(zeros, nothing, identity, *blocks, **settings))
    return torch.cat(shown, 2)[..., :keys]


def test_dropout_keeps_its_share_and_scales() -> None:
    _, blocks = layout([32, 50, 64], 2)
    weights = mask_of(blocks, 2, 3, 64, 3, 0.3)[blocks[0][:146]]
    assert ((weights * 0.7 - 1).abs().lt(1e-4) | weights.eq(0)).all()
    kept = weights.ne(0)
    # 18688 draws: a standard deviation is 0.0034.
    assert 0.68 < kept.float().mean() < 0.72
    again = mask_of(blocks, 2, 3, 64, 3, 0.3)[blocks[0][:146]]
    assert torch.equal(weights, again)
    others = mask_of(blocks, 2, 3, 64, 4, 0.3)[blocks[0][:146]].ne(0)
    # Independent masks agree on 0.58 of the places.
    shifted = [others, kept.flip(1), *(kept.roll(1, place) for place in (0, 2))]
    # Keys 8, 16 and 24 apart share the mixing of their bits.
    apart = [kept.roll(count, 2) for count in (8, 16, 24, 32)]
    for other in (*shifted, *apart, kept.roll(32, 0)):
        assert 0.56 < (kept == other).float().mean() < 0.60
    # By binomial laws the shares of a query's keys, and of a key's queries, spread this much.
    for axis, draws in ((2, 64), (0, 146)):
        expected = (0.7 * 0.3 / draws) ** 0.5
        assert 0.8 < kept.float().mean(axis).std() / expected < 1.2


@pytest.mark.parametrize("last", [0, 3])
def test_gradients_under_dropout_have_the_mask_of_the_forward_pass(last: float) -> None:
    """The mask is seen in calls of their own with the same seed and another width. Where all look
    at the last key, its weight is nearly 1, and more once it is scaled."""
    counts, keys = [7, 0, 40], 70
    pictures, blocks = layout(counts, 5)
    kept = mask_of(blocks, 2, 3, keys, 11, 0.4).ne(0)
    shape = (3, keys, 2, 32)
    inputs = [normal(len(pictures), 2, 32), normal(*shape, seed=1), normal(*shape, seed=2)]
    if last:
        inputs[0], inputs[1][:, -1] = inputs[0].abs(), last
    torch.manual_seed(11)
    ours = outcome("triton", inputs, blocks, 0.4)
    leaves = [tensor.double().requires_grad_() for tensor in inputs]
    looking = pictures < 3
    key, value = (leaf[pictures[looking]].transpose(1, 2) for leaf in leaves[1:])
    scores = (leaves[0][looking][:, :, None] @ key.mT)[:, :, 0] / 32**0.5
    weights = scores.softmax(-1) * kept[looking] / 0.6
    seen = (weights[:, :, None] @ value)[:, :, 0]
    out = torch.zeros_like(leaves[0]).index_copy(0, looking.nonzero()[:, 0], seen)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(3)).to(out)
    exact = [out.detach(), *torch.autograd.grad(out, leaves, upstream)]
    for got, want in zip(ours, exact, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=2e-5)
    torch.manual_seed(11)
    for got, want in zip(outcome("triton", inputs, blocks, 0.4), ours, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key_BSHK": torch.zeros(2, 5, 3, 8)}, r"key \(2, 5, 3, 8\) and value \(2, 5, 2, 8\)"),
        ({"query_THK": torch.zeros(6, 16)}, r"must be \[T, H, K\]"),
        ({"order_T": torch.arange(5)}, r"order \(5,\) and starts \(3,\) must be \[6\] and \[3\]"),
        ({"starts": torch.zeros(3)}, "integers"),
        ({"dropout": 1.0}, "out of range"),
        ({"backend": "flash"}, "unknown backend 'flash': choose auto, triton, reference"),
    ],
)
def test_wrong_input_is_named(change: dict[str, object], message: str) -> None:
    good = {"query_THK": torch.zeros(6, 2, 8), "order_T": torch.arange(6)}
    good |= dict.fromkeys(("key_BSHK", "value_BSHK"), torch.zeros(2, 5, 2, 8))
    with pytest.raises(ValueError, match=message):
        attention_pictures(**{**good, "starts": torch.tensor([0, 2, 5]), **change})


@pytest.mark.skipif(GPU, reason="a GPU is here: the interpreter takes its place elsewhere")
def test_who_has_padding_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    states = torch.zeros(1)
    assert not attention_pictures_runs(states, 64)
    assert not attention_pictures_runs(states, 64, "padded")
    assert attention_pictures_runs(states, 64, "triton")
    with pytest.raises(RuntimeError, match="heads of 65 are wider than 64"):
        attention_pictures_runs(states, 65, "triton")
    with pytest.raises(RuntimeError, match="not float64"):
        attention_pictures_runs(states.double(), 64, "triton")
    with pytest.raises(ValueError, match="choose auto, triton, padded"):
        attention_pictures_runs(states, 64, "reference")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="attention_pictures: .* tensors are on cpu"):
        attention_pictures_runs(states, 64, "triton")


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_on_a_gpu_as_wrong_as_the_definition_in_bf16(dropout: float) -> None:
    _, blocks = layout([59, 0, 1, 200, 64, 65], 300)
    shape = (6, 197, 12, 64)
    inputs = [normal(len(blocks[0]), 12, 64), normal(*shape, seed=1), normal(*shape, seed=2)]
    inputs = [tensor.bfloat16() for tensor in inputs]
    if not dropout:
        compare(inputs, blocks)
    runs = []
    for _ in range(2):
        torch.manual_seed(5)
        runs.append(outcome("auto", inputs, blocks, dropout))
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU")
def test_a_replayed_graph_draws_anew_and_auto_takes_the_kernel_under_autocast() -> None:
    pictures, _ = layout([9, 30, 0, 17], 40)
    inputs = [normal(96, 2, 16), *(normal(4, 50, 2, 16, seed=seed) for seed in (1, 2))]

    def attend() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return attention_pictures(*inputs, *by_picture(pictures, 4), dropout=0.5)

    assert attend().dtype == torch.bfloat16
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend()
    graph.replay()
    first = out.clone()
    graph.replay()
    assert not torch.equal(first, out)
