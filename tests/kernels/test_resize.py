"""Pictures resized to Pillow's bytes, by the definition and by the kernel."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kernels import resize
from kernels.resize.filter import VERSION, columns_first

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIDES = [(37, 50), (50, 37), (32, 32), (32, 90), (90, 32), (5, 40), (40, 5), (1, 1), (320, 20)]
BACKENDS = ["reference", "triton"]
by = pytest.mark.parametrize("backend", BACKENDS)


def pictures(sides: list[tuple[int, int]], seed: int = 0) -> list[np.ndarray]:
    """Hard edges between black and white, which overshoot both ways, and noise."""
    chance = np.random.default_rng(seed)
    noise = [chance.integers(0, 256, (*both, 3), np.uint8) for both in sides]
    return [np.where(one > 127, 255, 0).astype(np.uint8) if n % 2 else one
            for n, one in enumerate(noise)]  # fmt: skip


def packed(many: list[np.ndarray]) -> torch.Tensor:
    together = [torch.from_numpy(one).flatten() for one in many]
    return torch.cat([torch.empty(0, dtype=torch.uint8), *together]).to(DEVICE)


def by_pillow(many: list[np.ndarray], size: int) -> torch.Tensor:
    views = [Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC) for x in many]
    return torch.from_numpy(np.stack([np.asarray(view) for view in views])).permute(0, 3, 1, 2)


@by
@pytest.mark.parametrize("size", [16, 32, 7, 1])
def test_bytes_of_pillow(size: int, backend: str) -> None:
    many = pictures(SIDES)
    found = resize(packed(many), SIDES, size, backend=backend).cpu()
    assert found.dtype == torch.uint8 and found.is_contiguous()
    assert torch.equal(found, by_pillow(many, size))


@settings(max_examples=150)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 96), st.integers(0, 9))
def test_bytes_of_pillow_at_any_size(height: int, width: int, size: int, seed: int) -> None:
    """The order of passes too, which changes a quarter of the values."""
    many = pictures([(height, width)], seed)
    found = resize(packed(many), [(height, width)], size, backend="reference").cpu()
    assert torch.equal(found, by_pillow(many, size))


def test_photographs_of_usual_sizes() -> None:
    """Of which Pillow 13 filters the high ones in the other order."""
    sides = [(375, 500), (500, 375), (1024, 768)]
    assert [columns_first(*both, 384) for both in sides[:2]] == [False, VERSION >= (13, 0)]
    many = pictures(sides)
    found = resize(packed(many), sides, 384, backend="reference").cpu()
    assert torch.equal(found, by_pillow(many, 384))


@by
def test_no_picture(backend: str) -> None:
    assert resize(packed([]), [], 8, backend=backend).shape == (0, 3, 8, 8)


def test_what_does_not_fit_is_refused() -> None:
    pixels = torch.zeros(12, dtype=torch.uint8)
    wrong = [
        partial(resize, pixels, [(2, 3)], 8),
        partial(resize, pixels, [(2, 2), (0, 1)], 8),
        partial(resize, pixels.float(), [(2, 2)], 8),
        partial(resize, pixels[None], [(2, 2)], 8),
        partial(resize, pixels, [(2, 2)], 0),
    ]
    for call in wrong:
        with pytest.raises(ValueError, match="must be uint8"):
            call()
    with pytest.raises(ValueError, match="unknown backend"):
        resize(pixels, [(2, 2)], 8, backend="pillow")
