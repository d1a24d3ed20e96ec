"""Bytes of pictures as numbers: the kernel gives the definition's bits."""

import pytest
import torch

from kernels import normalise

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SCALE, OFFSET = torch.tensor([0.0146, 0.0150, 0.0142]), torch.tensor([-1.7922, -1.7521, -1.4802])


def outcome(views: torch.Tensor, dtype: torch.dtype, backend: str) -> torch.Tensor:
    there = views.to(DEVICE), SCALE.to(DEVICE), OFFSET.to(DEVICE)
    return normalise(*there, dtype, backend=backend).cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(2, 3, 8, 32), (3, 5, 7), (2, 2, 3, 70, 67), (0, 3, 4, 4)])
def test_bits_of_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    views = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
    views = views.to(torch.uint8)
    found, want = (outcome(views, dtype, name) for name in ("triton", "reference"))
    assert found.dtype == dtype and found.shape == shape
    if DEVICE == "cpu" and dtype == torch.bfloat16:
        # Triton's interpreter rounds bfloat16 towards zero.
        torch.testing.assert_close(found, want, rtol=2**-7, atol=0)
    else:
        assert torch.equal(found, want)


def test_every_byte() -> None:
    """A product and a sum that were joined would be rounded once, and differ in some of them."""
    views = torch.arange(256).to(torch.uint8).view(1, 16, 16).expand(3, 16, 16)
    exact = views.double() * SCALE.double()[:, None, None] + OFFSET.double()[:, None, None]
    found = outcome(views, torch.float32, "triton")
    assert torch.equal(found, outcome(views, torch.float32, "reference"))
    assert not torch.equal(found, exact.float())


def test_views_are_read_right() -> None:
    wide = torch.randint(0, 256, (4, 3, 9, 10)).to(torch.uint8)
    turned = wide[::2].transpose(2, 3)
    found = outcome(turned, torch.float32, "triton")
    assert torch.equal(found, outcome(turned.contiguous(), torch.float32, "reference"))


@pytest.mark.parametrize(
    ("views", "scale"),
    [
        (torch.zeros(3, 4, 4), SCALE),
        (torch.zeros(4, 4, 4, dtype=torch.uint8), SCALE),
        (torch.zeros(3, 4, dtype=torch.uint8), SCALE),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), SCALE[:2]),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), SCALE.double()),
    ],
)
def test_wrong_input_is_named(views: torch.Tensor, scale: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"normalise: .* must be uint8 \[..., 3, H, W\]"):
        normalise(views, scale, OFFSET)
    with pytest.raises(ValueError, match="unknown backend"):
        normalise(torch.zeros(3, 4, 4, dtype=torch.uint8), SCALE, OFFSET, backend="numpy")
