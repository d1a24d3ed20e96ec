"""The training view of a picture, fast: decoded no larger than needed, resized as bytes.

How far from the definition (`Augmentation`), in steps of 255: cropped and resized where nothing is
decoded small, at most 2, in less than a hundredth of the values (PyTorch's weights of the bicubic
filter have 16 bits). Where it is, the DCT's own small picture takes the filter's place and corners
of the crop move by up to half of its pixels: within 1.5 steps in the mean over a view.
`tests/engine/test_fast_view.py` holds both; `engine.data.fast_operations` says what follows.
"""

import numpy as np
import torch
import torch.nn.functional as F

from engine.data.augment import Augmentation, crop_box
from engine.data.counter import Draws
from engine.data.fast_operations import changed
from engine.data.images import MAX_ASPECT, decode_image, has_many_scans
from engine.data.jpeg import DIVISORS, Decoder
from engine.data.jpeg_header import colour_sides

Box = tuple[int, int, int, int]


def fast_view(
    content: bytes | None, max_pixels: int, augmentation: Augmentation, draws: Draws, jpeg: Decoder
) -> torch.Tensor:
    """Encoded picture -> [3, size, size] uint8, with the draws that the definition takes.

    Args:
        content: encoded JPEG, PNG or WebP.
        max_pixels: larger pictures are refused.
        augmentation: the definition.
        draws: of the slot.
        jpeg: decodes JPEG; what it does not take goes the definition's way.

    Raises:
        BadSample: as `decode_image`, for the same pictures.
    """
    pixels, box = _region(content, max_pixels, augmentation, draws, jpeg)
    view = resized(pixels, box, augmentation.size)
    mirror, operations = augmentation.drawn(draws)
    planes = np.ascontiguousarray(view[:, :, ::-1] if mirror else view)
    for name, sign in operations:
        planes = changed(planes, name, sign)
    return torch.from_numpy(np.ascontiguousarray(planes))


def resized(pixels: np.ndarray, box: Box, size: int) -> np.ndarray:
    """[H, W, 3] uint8, cropped to a box and resized bicubically -> [3, size, size] uint8.

    The result lies in memory as the picture does, its colours last.
    """
    left, top, right, bottom = box
    # To PyTorch it is a batch of one with channels last, which has a fast kernel. Cut by numpy:
    # all that PyTorch does but compute takes it longer.
    crop = pixels.reshape(1, *pixels.shape)[:, top:bottom, left:right].transpose(0, 3, 1, 2)
    batch = F.interpolate(torch.from_numpy(crop), (size, size), mode="bicubic", antialias=True)
    return batch.numpy()[0]


def divisor_of(box: Box, size: int) -> int:
    """The largest one that leaves a box at least as large as the view."""
    shortest = min(box[2] - box[0], box[3] - box[1])
    return next((d for d in DIVISORS if shortest >= d * size), 1)


def _region(
    content: bytes | None, max_pixels: int, augmentation: Augmentation, draws: Draws, jpeg: Decoder
) -> tuple[np.ndarray, Box]:
    """Pixels of a picture at some size, [H, W, 3], and the drawn crop in them."""
    if (sides := usable_sides(content, max_pixels)) is None:
        image = decode_image(content, max_pixels)
        box = crop_box(image.width, image.height, augmentation.min_crop_scale, draws)
        return np.array(image), box
    width, height = sides
    box = crop_box(width, height, augmentation.min_crop_scale, draws)
    pixels = decoded(content, max_pixels, jpeg, divisor_of(box, augmentation.size))
    return pixels, _scaled(box, pixels.shape[1] / width, pixels.shape[0] / height)


def decoded(content: bytes, max_pixels: int, jpeg: Decoder, divisor: int = 1) -> np.ndarray:
    """Pixels [H, W, 3] of what looks like a usable colour JPEG.

    Raises:
        BadSample: as `decode_image`, for the same pictures.
    """
    try:
        return jpeg(content, divisor)
    except Exception:  # noqa: BLE001 - a decoder raises anything; the definition says what it is
        return np.array(decode_image(content, max_pixels))


def usable_sides(content: bytes | None, max_pixels: int) -> tuple[int, int] | None:
    """Width and height of what looks like a usable colour JPEG; else the definition judges."""
    sides = None if content is None else colour_sides(content)
    if sides is None or not 0 < sides[0] * sides[1] <= max_pixels or has_many_scans(content):
        return None
    return sides if max(sides) <= MAX_ASPECT * min(sides) else None


def _scaled(box: Box, x: float, y: float) -> Box:
    """A box in a picture that was decoded at a part of its size; never empty."""
    if (x, y) == (1.0, 1.0):
        return box
    left, top, right, bottom = box
    left, top = round(left * x), round(top * y)
    return left, top, max(left + 1, round(right * x)), max(top + 1, round(bottom * y))
