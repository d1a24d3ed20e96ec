"""The training view of a picture, fast: decoded no larger than needed, resized as bytes.

How far from the definition (`Augmentation`), in steps of 255: where nothing is
decoded small, at most 2, in less than a hundredth of the values (PyTorch's weights of the bicubic
filter have 16 bits). Where it is, the DCT's own small picture takes the filter's place and corners
of the crop move by up to half of its pixels: within 1.5 steps in the mean over a view.
`tests/engine/test_fast_view.py` holds both.
"""

import io
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from engine.data.augment import UNCHANGING, Augmentation, apply_operation, crop_box, to_bytes
from engine.data.counter import Draws
from engine.data.images import FORMATS, MAX_ASPECT, decode_image
from engine.data.jpeg import DIVISORS, Decoder

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
    if mirror:
        view = view.flip(2)
    operations = [(name, sign) for name, sign in operations if name not in UNCHANGING]
    if not operations:
        return view.contiguous()
    image = Image.fromarray(view.permute(1, 2, 0).contiguous().numpy())
    for name, sign in operations:
        image = apply_operation(image, name, sign)
    return to_bytes(image)


def resized(pixels: np.ndarray, box: Box, size: int) -> torch.Tensor:
    """[H, W, 3] uint8, cropped to a box and resized bicubically -> [3, size, size] uint8."""
    left, top, right, bottom = box
    crop = torch.from_numpy(np.array(pixels[top:bottom, left:right]))
    # As it lies in memory this is a picture with its channels last, which has a fast kernel.
    crop = crop.permute(2, 0, 1)[None]
    return F.interpolate(crop, (size, size), mode="bicubic", antialias=True)[0]


def divisor_of(box: Box, size: int) -> int:
    """The largest one that leaves a box at least as large as the view."""
    shortest = min(box[2] - box[0], box[3] - box[1])
    return next((d for d in DIVISORS if shortest >= d * size), 1)


def _region(
    content: bytes | None, max_pixels: int, augmentation: Augmentation, draws: Draws, jpeg: Decoder
) -> tuple[np.ndarray, Box]:
    """Pixels of a picture at some size, and the drawn crop in them."""
    if (sides := colour_sides(content, max_pixels)) is not None:
        width, height = sides
        box = crop_box(width, height, augmentation.min_crop_scale, draws)
        try:
            pixels = jpeg(content, divisor_of(box, augmentation.size))
        except Exception:  # noqa: BLE001 - a decoder raises anything; the definition says what it is
            pixels = np.asarray(decode_image(content, max_pixels))
        return pixels, _scaled(box, pixels.shape[1] / width, pixels.shape[0] / height)
    image = decode_image(content, max_pixels)
    box = crop_box(image.width, image.height, augmentation.min_crop_scale, draws)
    return np.asarray(image), box


def colour_sides(content: bytes | None, max_pixels: int) -> tuple[int, int] | None:
    """Width and height of what looks like a usable colour JPEG; else the definition judges."""
    if content is None or content[:2] != b"\xff\xd8":
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Exception:  # noqa: BLE001 - decoders raise anything on hostile bytes
            return None
    width, height = image.size
    usable = 0 < width * height <= max_pixels and max(width, height) <= MAX_ASPECT * min(
        width, height
    )
    return (width, height) if usable and image.mode == "RGB" else None


def _scaled(box: Box, x: float, y: float) -> Box:
    """A box in a picture that was decoded at a part of its size; never empty."""
    if (x, y) == (1.0, 1.0):
        return box
    left, top, right, bottom = box
    left, top = round(left * x), round(top * y)
    return left, top, max(left + 1, round(right * x)), max(top + 1, round(bottom * y))
