"""Several maps of few rows: as one after the other, whatever their sizes."""

import pytest
import torch
import torch.nn.functional as F

from kernels import linear_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies no bfloat16.
LOW = torch.bfloat16 if torch.cuda.is_available() else torch.float16


@pytest.mark.parametrize(
    ("rows", "count", "columns", "gelu"),
    [((5, 1), 3, 40, False), ((70,), 1, 33, True), ((64,), 2, 64, True)],
)
@pytest.mark.parametrize("kind", [torch.float32, LOW])
def test_products_are_no_worse_than_the_definitions(
    rows: tuple[int, ...], count: int, columns: int, gelu: bool, kind: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(columns)

    def normal(*shape: int, kind: torch.dtype = LOW) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, kind)

    x = normal(*rows, 150, kind=kind)
    maps = [(normal(columns, 150) / 12, normal(columns)) for _ in range(count)]
    ours = linear_rows(x, *maps, gelu=gelu, backend="triton")
    plain = linear_rows(x.to(LOW), *maps, gelu=gelu, backend="reference")
    assert len(ours) == count
    for found, other, pair in zip(ours, plain, maps, strict=True):
        assert found.dtype == LOW
        assert found.shape == (*rows, columns)
        truth = F.linear(x.double(), *(tensor.double() for tensor in pair))
        truth = F.gelu(truth) if gelu else truth
        errors = [(answer.double() - truth).abs().max() for answer in (found, other)]
        assert errors[0] <= 2 * errors[1] + 1e-4


def test_who_wants_gradients_or_float32_gets_the_definition() -> None:
    x, maps = torch.randn(3, 4), [(torch.randn(5, 4), torch.randn(5))]
    assert torch.equal(linear_rows(x, *maps)[0], F.linear(x, *maps[0]))
    with pytest.raises(RuntimeError, match="16-bit"):
        linear_rows(x, *maps, backend="triton")
    low = [tuple(tensor.half().requires_grad_() for tensor in maps[0])]
    with pytest.raises(RuntimeError, match="no backward"):
        linear_rows(x.half(), *low, backend="triton")
    with pytest.raises(ValueError, match="must be"):
        linear_rows(x, maps[0], (torch.randn(6, 4), torch.randn(6)))
