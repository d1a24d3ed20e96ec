"""What surrounds the matrix products of a layer: bias with GELU, residual with norm."""

from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kernels import add_norm, linear, linear_gelu, linears

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Shares of the largest value. Triton's interpreter cuts float32 off where it stores bfloat16
# instead of rounding it: up to half a step more.
CUT = 2**-8 if DEVICE == "cpu" else 0.0
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 1e-3 + CUT}
Tensors = list[torch.Tensor]
DTYPES = [torch.float32, torch.bfloat16]


def random(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensors:
    """Normal numbers of these shapes."""
    generator = torch.Generator().manual_seed(sum(map(sum, shapes)))
    return [torch.randn(s, generator=generator).to(DEVICE, dtype) for s in shapes]


def outcome(
    function: Callable[..., tuple[torch.Tensor, ...]], inputs: Tensors, dtypes: list[torch.dtype]
) -> Tensors:
    """Results, and gradients of the inputs under random upstream ones of all results."""
    leaves = [t.detach().to(d).requires_grad_() for t, d in zip(inputs, dtypes, strict=True)]
    results = function(*leaves)
    generator = torch.Generator().manual_seed(5)
    upstream = [torch.randn(r.shape, generator=generator).to(r) for r in results]
    return [*(r.detach() for r in results), *torch.autograd.grad(results, leaves, upstream)]


def compare(
    function: Callable[[str], Callable[..., tuple[torch.Tensor, ...]]],
    inputs: Tensors,
    dtypes: list[torch.dtype],
) -> None:
    """At most twice as wrong as the definition in the same dtypes, against float64."""
    truth = outcome(function("reference"), inputs, [torch.float64] * len(inputs))
    plain = outcome(function("reference"), inputs, dtypes)
    ours = outcome(function("triton"), inputs, dtypes)
    for number, (want, torchs, got) in enumerate(zip(truth, plain, ours, strict=True)):
        assert got.dtype == torchs.dtype, number
        scale = want.abs().max().clamp(min=1).item()
        allowed = 2 * (torchs.double() - want).abs().max().item() + FLOOR[dtypes[0]] * scale
        assert got.isfinite().all(), number
        assert (got.double() - want).abs().max().item() <= allowed, number


def gelu(backend: str) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda x, weight, bias: (linear_gelu(x, weight, bias, backend=backend),)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "out"), [((1, 3), 5), ((7, 16), 300), ((2, 9, 8), 256), ((70, 4), 33)]
)
def test_linear_gelu(shape: tuple[int, ...], out: int, dtype: torch.dtype) -> None:
    compare(gelu, random(shape, (out, shape[-1]), (out,)), [dtype] * 3)


def test_linear_gelu_far_from_zero() -> None:
    """Where erf is 1 and the density underflows, and where both tails are cut off."""
    z = torch.tensor([-40.0, -6.0, -1e-4, 0.0, 1e-4, 6.0, 40.0], device=DEVICE)
    inputs = [z[:, None], torch.ones(4, 1, device=DEVICE), torch.zeros(4, device=DEVICE)]
    compare(gelu, inputs, [torch.float32] * 3)


def test_linear_gelu_under_autocast_is_as_wrong_as_torch() -> None:
    x, weight, bias = random((9, 32), (48, 32), (48,))
    found = []
    for backend in ("reference", "triton"):
        leaves = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        with torch.autocast(DEVICE, torch.bfloat16):
            out = linear_gelu(*leaves, backend=backend)
        upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2))
        found.append([out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out))])
    exact = outcome(gelu("reference"), [x, weight, bias], [torch.float64] * 3)[0]
    assert found[1][0].dtype == torch.bfloat16
    errors = [(side[0].double() - exact).abs().max().item() for side in found]
    assert errors[1] <= 2 * errors[0] + FLOOR[torch.bfloat16] * exact.abs().max()
    assert [t.dtype for t in found[1]] == [t.dtype for t in found[0]]
    for got, want in zip(found[1], found[0], strict=True):
        assert (got - want).abs().max() <= 0.03 * want.abs().max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "out"), [((7, 16), 9), ((2, 70, 8), 256), ((1, 3), 130)])
def test_linear(shape: tuple[int, ...], out: int, dtype: torch.dtype) -> None:
    def ours(backend: str) -> Callable[..., tuple[torch.Tensor, ...]]:
        return lambda *inputs: (linear(*inputs, backend=backend),)

    compare(ours, random(shape, (out, shape[-1]), (out,)), [dtype] * 3)


def test_linear_under_autocast_gives_the_dtypes_of_torch() -> None:
    found = []
    for backend in ("reference", "triton"):
        leaves = [tensor.requires_grad_() for tensor in random((9, 32), (48, 32), (48,))]
        with torch.autocast(DEVICE, torch.bfloat16):
            out = linear(*leaves, backend=backend)
        upstream = torch.ones_like(out)
        found.append([out.detach(), *torch.autograd.grad(out, leaves, upstream)])
    assert [t.dtype for t in found[1]] == [t.dtype for t in found[0]]
    for got, want in zip(found[1], found[0], strict=True):
        assert (got - want).abs().max() <= 0.02 * want.abs().max()


def places(numbers: torch.Tensor) -> torch.Tensor:
    """Of each among all bfloat16 numbers in order."""
    bits = numbers.to(torch.bfloat16).view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def test_gelu_of_every_bfloat16_is_the_nearest_or_its_neighbour() -> None:
    """The form for sixteen bits, before it is rounded: its value and its derivative."""
    from kernels.bias_gelu import triton_kernels as kernels
    from kernels.parts import TOGETHER, counters

    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    every = every[every.isfinite() & (every.abs() <= 20)]
    z = torch.zeros(132 * 256, dtype=torch.bfloat16)
    z[: len(every)] = every
    z = z.view(132, 256).to(DEVICE)
    bias = torch.zeros(256, device=DEVICE)
    found = torch.empty(3, 132, 256, device=DEVICE)
    settings = kernels.tiles(256, 4)
    columns = 256 // settings["BLOCK_N"]
    kernels.bias_gelu_kernel[(33, columns)](z, bias, found[0], 132, 256, EXACT=False, **settings)
    kernels.bias_gelu_backward_kernel[(columns, 1)](
        torch.ones_like(z), z, bias, found[1], torch.empty_like(bias), counters(bias.device),
        torch.empty_like(bias), found[2], 132, 256, 132,
        TOGETHER=TOGETHER, EXACT=False, WITH_ACTIVE=True, **settings,
    )  # fmt: skip
    z = z.double()
    share = torch.special.erfc(-z / 2**0.5) / 2
    slope = share + z * torch.exp(-z * z / 2) / (2 * torch.pi) ** 0.5
    # Below them a GPU may write zero: there the exponential is zero, which up to six come of.
    normal = 2.0**-126 if DEVICE == "cpu" else 2.0**-123
    for name, got, want, most in (
        ("gelu", found[0], z * share, 10),
        ("slope", found[1], slope, 20),
        ("gelu again", found[2], z * share, 10),
    ):
        # A GPU's own root and exponential are shorter: where the slope crosses zero that shows.
        least = normal if DEVICE == "cpu" or name != "slope" else 0.02
        steps = (places(got) - places(want)).abs()[want.abs() >= least]
        assert steps.max() <= 1, name
        if DEVICE == "cpu":
            assert steps.count_nonzero() <= most, name
        assert (got - want).abs().max() <= (6e-6 if DEVICE == "cpu" else 2e-5), name
        # Relative: what a thin tail says is not noise. The slope crosses zero.
        tail = (want.abs() >= normal) & (z <= -1)
        assert (got / want - 1)[tail].abs().max() <= 2**-15, name
        assert got[want.abs() < normal].abs().max() <= normal, name
    assert not torch.equal(found[0], (z * share).float()), "the exact form was measured"


def norm(backend: str, **settings: object) -> Callable[..., tuple[torch.Tensor, ...]]:
    return lambda *inputs: add_norm(*inputs, 1e-6, backend=backend, **settings)


SHAPES = [(1, 5), (3, 16), (2, 7, 24), (33, 100), (5, 768), (3, 2, 1024)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_add_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    compare(norm, random(shape, shape, shape[-1:], shape[-1:]), [dtype] * 4)


def test_add_norm_of_a_wide_residual_and_a_narrow_branch() -> None:
    """As under autocast: the residual stays float32, the branch comes from a product."""
    inputs = random((6, 48), (6, 48), (48,), (48,))
    dtypes = [torch.float32, torch.bfloat16, torch.float32, torch.float32]
    for norm_dtype in (None, torch.bfloat16):
        compare(lambda b, d=norm_dtype: norm(b, norm_dtype=d), inputs, dtypes)


def test_the_way_back_through_a_norm_is_one_launch() -> None:
    """The gradients of weight and bias are the size of a row: what they cost is the launch."""

    class Operations(TorchDispatchMode):
        names: set[str] = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
            self.names.add(func.overloadpacket.__name__)
            return func(*args, **(kwargs or {}))

    leaves = [t.requires_grad_() for t in random((40, 768), (40, 768), (768,), (768,))]
    out = norm("triton")(*leaves)
    upstream = [torch.ones_like(t) for t in out]
    with Operations() as seen:
        found = torch.autograd.grad(out, leaves, upstream)
    assert "empty" in seen.names and "sum" not in seen.names
    assert torch.equal(found[3], torch.full((768,), 40.0, device=DEVICE))


@pytest.mark.parametrize("used", [0, 1])
def test_add_norm_when_one_result_is_used(used: int) -> None:
    """Post-norm blocks use the norm alone; the last sum may go nowhere."""
    inputs = random((6, 48), (6, 48), (48,), (48,))
    inputs = inputs[: 2 if used == 0 else 4]
    rest = random((48,), (48,)) if used == 0 else []

    def one(backend: str) -> Callable[..., tuple[torch.Tensor, ...]]:
        def function(*leaves: torch.Tensor) -> tuple[torch.Tensor, ...]:
            others = [tensor.to(leaves[0].dtype) for tensor in rest]
            return (norm(backend)(*leaves, *others)[used],)

        return function

    compare(one, inputs, [torch.float32] * len(inputs))


def test_add_norm_of_a_constant_row_and_of_strided_rows() -> None:
    residual, branch, weight, bias = random((4, 9, 32), (4, 1, 32), (32,), (32,))
    compare(norm, [residual[:, :1], branch, weight, bias], [torch.float32] * 4)
    flat = torch.full((2, 32), 3.0, device=DEVICE)
    total, normed = add_norm(flat, flat, weight, bias, 1e-6, backend="triton")
    torch.testing.assert_close(total, 2 * flat)
    torch.testing.assert_close(normed, bias.expand(2, -1))


def test_the_definitions_are_what_the_layers_computed_before() -> None:
    """On a CPU `auto` must not change a bit."""
    x, weight, bias = (t.cpu() for t in random((9, 32), (48, 32), (48,)))
    before = torch.nn.functional.gelu(torch.nn.functional.linear(x, weight, bias))
    assert torch.equal(linear_gelu(x, weight, bias), before)
    residual, branch, weight, bias = (t.cpu() for t in random((6, 48), (6, 48), (48,), (48,)))
    total, normed = add_norm(residual, branch, weight, bias, 1e-12)
    assert torch.equal(total, residual + branch)
    expected = torch.nn.functional.layer_norm(branch + residual, (48,), weight, bias, 1e-12)
    assert torch.equal(normed, expected)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"weight \(4, 3\) and bias \(3,\) must be"):
        linear_gelu(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3))
    with pytest.raises(ValueError, match=r"branch \(3, 8\)"):
        add_norm(torch.zeros(2, 8), torch.zeros(3, 8), torch.ones(8), torch.zeros(8), 1e-6)
    with pytest.raises(ValueError, match=r"and bias \(7,\) must be"):
        add_norm(torch.zeros(2, 8), torch.zeros(2, 8), torch.ones(8), torch.zeros(7), 1e-6)
    wide = torch.zeros(1, 5000)
    with pytest.raises(RuntimeError, match="rows of 5000 are wider than 4096"):
        add_norm(wide, wide, wide[0], wide[0], 1e-6, backend="triton")


def test_a_forced_backend_that_cannot_run_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(RuntimeError, match="linear_gelu: .* tensors are on cpu"):
        linear_gelu(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4), backend="triton")
    row = torch.zeros(1, 8)
    with pytest.raises(RuntimeError, match="add_norm: .* tensors are on cpu"):
        add_norm(row, row, row[0], row[0], 1e-6, backend="triton")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")
def test_a_gpu_that_is_not_the_threads_own_gets_the_definition() -> None:
    """Triton would launch on the thread's."""
    inputs = [tensor.to("cuda:1") for tensor in random((5, 24), (5, 24), (24,), (24,))]
    with torch.cuda.device(0):
        found, plain = (add_norm(*inputs, 1e-6, backend=b)[1] for b in ("auto", "reference"))
        assert torch.equal(found, plain)
        with pytest.raises(RuntimeError, match="which is not cuda:1"):
            add_norm(*inputs, 1e-6, backend="triton")


def test_sums_of_columns_by_the_program_that_ends_last() -> None:
    from kernels.linear.triton_kernels import column_sum
    from kernels.parts import counters

    torch.manual_seed(0)
    for rows, width in ((1, 1), (127, 130), (5000, 33), (2049, 768)):
        x = torch.randn(rows, width, device=DEVICE)
        for _ in range(2):
            found = column_sum(x)
            torch.testing.assert_close(found, x.double().sum(0).float(), atol=1e-3, rtol=1e-5)
        assert torch.equal(column_sum(x), found)
    assert not counters(x.device).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_maps_of_one_input_are_one_product(dtype: torch.dtype) -> None:
    def maps(backend: str) -> Callable[..., tuple[torch.Tensor, ...]]:
        return lambda x, *w: linears(x, w[::2], w[1::2], backend=backend)

    sizes = ((24, 16), (24,), (8, 16), (8,), (40, 16), (40,))
    compare(maps, random((3, 7, 16), *sizes), [dtype] * 7)
    with pytest.raises(ValueError, match="must be"):
        linears(torch.zeros(2, 3), [torch.zeros(4, 5)], [torch.zeros(4)])
