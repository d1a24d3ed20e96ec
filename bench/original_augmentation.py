"""How the original augments a picture: Pillow crops it, OpenCV does RandAugment's operations.

Our rendering of salesforce/BLIP (data/__init__.py, transform/randaugment.py), which computes
sharpness and brightness even where they change nothing.
"""

import math
import random
from collections.abc import Callable

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
GREY, LEVEL, OPERATIONS_A_PICTURE = (128, 128, 128), 5 / 10, 2
ENHANCED, SHEARED, MOVED, TURNED = 0.1 + 1.8 * LEVEL, 0.3 * LEVEL, 10 * LEVEL, 30 * LEVEL
Pixels = np.ndarray
Operation = Callable[[Pixels, float], Pixels]


def by_plane(table_of: Callable[[Pixels], Pixels]) -> Operation:
    """Each plane of [H, W, 3] through a table of its own."""

    def run(pixels: Pixels, _: float) -> Pixels:
        return cv2.merge([table_of(plane)[plane] for plane in cv2.split(pixels)])

    return run


def histogram(plane: Pixels) -> Pixels:
    """Counts of the 256 values."""
    return cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel()


def contrast_table(plane: Pixels) -> Pixels:
    """Darkest to 0, lightest to 255."""
    low, high = int(plane.min()), int(plane.max())
    if low == high:
        return np.arange(256).astype(np.uint8)
    scale = 255 / (high - low)
    return (np.arange(256) * scale - low * scale).clip(0, 255).astype(np.uint8)


def equal_table(plane: Pixels) -> Pixels:
    """To a histogram that is as flat as can be."""
    counts = histogram(plane)
    used = counts[counts != 0]
    step = np.sum(used[:-1]) // 255
    if not step:
        return np.arange(256).astype(np.uint8)
    before = np.empty_like(counts)
    before[0], before[1:] = step // 2, counts[:-1]
    return (np.cumsum(before) // step).clip(0, 255).astype(np.uint8)


def bright(pixels: Pixels, _: float) -> Pixels:
    """Multiplied, through a table."""
    table = np.arange(256, dtype=np.float32) * ENHANCED
    return table.clip(0, 255).astype(np.uint8)[pixels]


def sharp(pixels: Pixels, _: float) -> Pixels:
    """Blended with a smoothed copy; at factor 1 the copy is made and left."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1][1] = 5
    smooth = cv2.filter2D(pixels, -1, kernel / 13)
    return pixels if ENHANCED == 1 else cv2.addWeighted(pixels, ENHANCED, smooth, 1 - ENHANCED, 0)


def warped(matrix_of: Callable[[float], list[list[float]]]) -> Operation:
    """Moved by a matrix of the sign, grey where nothing is."""

    def run(pixels: Pixels, sign: float) -> Pixels:
        size = pixels.shape[1], pixels.shape[0]
        matrix = np.asarray(matrix_of(sign), np.float32)
        return cv2.warpAffine(pixels, matrix, size, borderValue=GREY, flags=cv2.INTER_LINEAR)

    return run


def turned(pixels: Pixels, sign: float) -> Pixels:
    """Rotated about the middle."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), sign * TURNED, 1)
    return cv2.warpAffine(pixels, matrix, (width, height), borderValue=GREY)


OPERATIONS: dict[str, Operation] = {
    "identity": lambda pixels, _: pixels,
    "auto_contrast": by_plane(contrast_table),
    "equalize": by_plane(equal_table),
    "brightness": bright,
    "sharpness": sharp,
    "shear_x": warped(lambda sign: [[1, sign * SHEARED, 0], [0, 1, 0]]),
    "shear_y": warped(lambda sign: [[1, 0, 0], [sign * SHEARED, 1, 0]]),
    "translate_x": warped(lambda sign: [[1, 0, -sign * MOVED], [0, 1, 0]]),
    "translate_y": warped(lambda sign: [[1, 0, 0], [0, 1, -sign * MOVED]]),
    "rotate": turned,
}


def random_crop(image: Image.Image, size: int, smallest: float) -> Image.Image:
    """torchvision's RandomResizedCrop, bicubic."""
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(smallest, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            break
    else:
        w = h = min(width, height)
        left, top = (width - w) // 2, (height - h) // 2
    box = (left, top, left + w, top + h)
    return image.crop(box).resize((size, size), Image.Resampling.BICUBIC)


def augment(image: Image.Image, size: int) -> torch.Tensor:
    """The original's training transform of an RGB picture: [3, size, size] float32."""
    image = random_crop(image, size, 0.2)
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    pixels = np.array(image)
    for operation in random.choices(list(OPERATIONS.values()), k=OPERATIONS_A_PICTURE):
        if random.random() > 0.5:
            pixels = operation(pixels, 1.0 if random.random() > 0.5 else -1.0)
    planes = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return planes.float().div(255).sub_(MEAN).div_(STD)
