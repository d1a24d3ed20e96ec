"""RandAugment's fast operations against their definition."""

import numpy as np
import pytest
from PIL import Image

from engine.data.augment import OPERATIONS, apply_operation, to_bytes
from engine.data.fast_operations import changed, contrast_table, equal_table

WARPS = ("shear_x", "shear_y", "rotate")
SAME = tuple(name for name in OPERATIONS if name not in WARPS)


def noise(size: int, seed: int, low: int = 0, high: int = 256) -> np.ndarray:
    """[3, S, S]: no two neighbours alike, the hardest for what interpolates."""
    return np.random.default_rng(seed).integers(low, high, (3, size, size), np.uint8)


def smooth(size: int, seed: int) -> np.ndarray:
    """[3, S, S] as a photograph is: neighbours are alike."""
    small = Image.fromarray(noise(size // 8, seed).transpose(1, 2, 0))
    return to_bytes(small.resize((size, size), Image.Resampling.BICUBIC)).numpy()


def defined(view: np.ndarray, name: str, sign: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
    return to_bytes(apply_operation(image, name, sign)).numpy()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", SAME)
def test_operations_that_do_not_interpolate_give_the_same_bytes(name: str, sign: int) -> None:
    views = [noise(48, 0), noise(33, 1, 60, 62), noise(17, 2, 9, 10), smooth(64, 3)]
    for view in (*views, views[0][:, :, ::-1]):
        assert np.array_equal(changed(view, name, sign), defined(view, name, sign))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", WARPS)
@pytest.mark.parametrize("size", [32, 97, 224])
def test_warps_are_within_a_step_of_a_photograph(name: str, sign: int, size: int) -> None:
    view = smooth(size, size)[:, :, ::-1]
    apart = changed(view, name, sign).astype(int) - defined(view, name, sign)
    assert np.abs(apart).max() <= 1
    assert (apart != 0).mean() < 0.05


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", WARPS)
def test_warps_of_noise_are_within_two_steps_and_lean_to_no_side(name: str, sign: int) -> None:
    view = noise(128, 5)
    apart = changed(view, name, sign).astype(int) - defined(view, name, sign)
    assert np.abs(apart).max() <= 2
    assert abs(apart.mean()) < 0.01
    # Grey where nothing came from, in the same places.
    assert (changed(view, name, sign) == 128).all(0).sum() > 100


def test_tables_are_pillows_for_every_pair_of_ends_and_for_uneven_histograms() -> None:
    chance = np.random.default_rng(0)
    for _ in range(60):
        low, high = sorted(int(value) for value in chance.integers(0, 256, 2))
        ramp = np.linspace(low, high, 1024).astype(np.uint8).reshape(32, 32)
        expected = defined(np.stack([ramp] * 3), "auto_contrast", 1)[0]
        table = np.frombuffer(contrast_table(low, high), np.uint8)
        assert np.array_equal(table[ramp], expected)
        skewed = (chance.random((20, 20)) ** chance.integers(1, 9) * 255).astype(np.uint8)
        expected = defined(np.stack([skewed] * 3), "equalize", 1)[0]
        counts = np.bincount(skewed.ravel(), minlength=256).tolist()
        assert np.array_equal(np.frombuffer(equal_table(counts), np.uint8)[skewed], expected)
