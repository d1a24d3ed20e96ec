"""RandAugment's operations on planes of bytes.

The definition is `engine.data.augment.apply_operation`. Moving, contrast and equalizing give the
same bytes. Shears and rotations are the same for every picture of a size, so where each pixel comes
from is computed once; weights have steps of 1/256, which leaves a photograph's values at most 1 of
255 away, in less than a twentieth of them, and noise 2. `tests/engine/test_fast_operations.py`
holds both.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image

from engine.data.augment import GREY, STRENGTH, UNCHANGING

STEPS = 256


def changed(view: np.ndarray, name: str, sign: int) -> np.ndarray:
    """One operation at strength 5 of 10, geometry filled with grey: [3, S, S] uint8 to the same."""
    if name in UNCHANGING:
        return view
    if name == "auto_contrast":
        return _looked_up(view, _contrast)
    if name == "equalize":
        return _looked_up(view, _equal)
    shift = sign * round(10 * STRENGTH)
    if name == "translate_x":
        return _moved(view, shift)
    if name == "translate_y":
        return _moved(view.transpose(0, 2, 1), shift).transpose(0, 2, 1)
    return _warped(view, name, sign)


def _looked_up(view: np.ndarray, table_of: Callable[[np.ndarray], bytes]) -> np.ndarray:
    """Each plane's bytes through a table of its own."""
    result = np.empty(view.shape, np.uint8)
    for old, new in zip(view, result, strict=True):
        found = old.tobytes().translate(table_of(old))
        new[:] = np.frombuffer(found, np.uint8).reshape(new.shape)
    return result


def _contrast(plane: np.ndarray) -> bytes:
    return contrast_table(int(plane.min()), int(plane.max()))


@lru_cache(maxsize=4096)
def contrast_table(low: int, high: int) -> bytes:
    """Darkest to 0 and lightest to 255 (`PIL.ImageOps.autocontrast`)."""
    if low == high:
        return bytes(range(256))
    scale = 255.0 / (high - low)
    return bytes(min(max(int(value * scale - low * scale), 0), 255) for value in range(256))


def _equal(plane: np.ndarray) -> bytes:
    # Numpy would count in eight times as long.
    size, content = plane.shape[::-1], np.ascontiguousarray(plane)
    return equal_table(Image.frombuffer("L", size, content, "raw", "L", 0, 1).histogram())


def equal_table(histogram: list[int]) -> bytes:
    """To a histogram that is as flat as can be (`PIL.ImageOps.equalize`)."""
    counts = np.array(histogram)
    found = counts[counts > 0]
    step = int(found.sum() - found[-1]) // 255
    if len(found) < 2 or not step:
        return bytes(range(256))
    before = np.cumsum(counts) - counts
    return np.minimum((step // 2 + before) // step, 255).astype(np.uint8).tobytes()


def _moved(view: np.ndarray, shift: int) -> np.ndarray:
    """Pixels from `shift` further right, grey where there are none."""
    result = np.empty_like(view)
    result[:] = np.array(GREY, np.uint8)[:, None, None]
    kept, to, source = view.shape[2] - abs(shift), max(0, -shift), max(0, shift)
    result[:, :, to : to + kept] = view[:, :, source : source + kept]
    return result


def _warped(view: np.ndarray, name: str, sign: int) -> np.ndarray:
    """A shear or a rotation, between the nearest two or four pixels."""
    size = view.shape[1]
    places, weights = _sources(name, sign, size)
    # A pixel's colours get 16 bits each of one number: one multiplication weighs all of them.
    pixels = np.zeros(size * size + 1, np.uint64)
    colours = pixels.view(np.uint16).reshape(-1, 4)
    for number, plane in enumerate(view):
        colours[:-1, number] = plane.ravel()
    colours[-1, :3] = GREY
    total = pixels.take(places[0])
    total *= weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        part = pixels.take(place)
        part *= weight
        total += part
    # Weights add up to 256, so the upper byte of the 16 bits is the mean.
    means = total.view(np.uint8).reshape(size, size, 8)[..., 1:6:2]
    return np.ascontiguousarray(means.transpose(2, 0, 1))


@lru_cache(maxsize=12)
def _sources(name: str, sign: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels a warped one lies between, and their shares: [2 or 4, S * S] int64 and uint64.

    As Pillow's bilinear filter has it: pixels have their centres at halves, those at the edge stand
    for their missing neighbours, and what comes from outside is grey, the pixel behind the last.
    """
    a, b, c, d, e, f = matrix_of(name, sign, size)
    y, x = np.mgrid[:size, :size] + 0.5
    x, y = a * x + b * y + c, d * x + e * y + f
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    left, top = np.floor(x - 0.5), np.floor(y - 0.5)
    x, y = x - 0.5 - left, y - 0.5 - top
    shares = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x])
    corners = [(top + down, left + right) for down in (0, 1) for right in (0, 1)]
    edge = size - 1
    places = np.stack([np.clip(v, 0, edge) * size + np.clip(h, 0, edge) for v, h in corners])
    places = np.where(inside, places, size * size).reshape(4, -1).astype(np.int64)
    weights = np.rint(shares * STEPS).reshape(4, -1)
    # Rounded ones may miss the sum by a step or two: the largest makes up for it.
    weights[weights.argmax(0), np.arange(size * size)] += STEPS - weights.sum(0)
    used = weights.any(1)
    return places[used], weights[used].astype(np.uint64)


def matrix_of(name: str, sign: int, size: int) -> tuple[float, float, float, float, float, float]:
    """Where a pixel comes from, as Pillow's affine transform takes it."""
    if name == "rotate":
        angle = -math.radians(sign * 30 * STRENGTH)
        cos, sin, middle = math.cos(angle), math.sin(angle), size / 2
        return cos, sin, middle * (1 - cos - sin), -sin, cos, middle * (1 - cos + sin)
    shear = sign * 0.3 * STRENGTH
    return (1, shear, 0, 0, 1, 0) if name == "shear_x" else (1, 0, 0, shear, 1, 0)
