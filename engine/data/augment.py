"""BLIP's augmentation by its definition, on Pillow; every draw comes from the slot's counters."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from engine.config import DataSection
from engine.data.counter import Draws

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
SCALE, OFFSET = 1 / (255 * STD), -MEAN / STD
RAND_AUGMENT_COUNT, STRENGTH = 2, 5 / 10
GREY = (128, 128, 128)
OPERATIONS = (
    "identity",
    "auto_contrast",
    "brightness",
    "sharpness",
    "equalize",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
)


@dataclass(frozen=True)
class Augmentation:
    """Crop, mirror, RandAugment (N = 2, M = 5), normalise, to a square of `size` pixels."""

    size: int
    min_crop_scale: float
    horizontal_flip: bool
    rand_augment: bool

    @classmethod
    def of(cls, data: DataSection, size: int) -> "Augmentation":
        """What a run's configuration describes."""
        return cls(size, data.min_crop_scale, data.horizontal_flip, data.rand_augment)

    def __call__(self, image: Image.Image, draws: Draws) -> torch.Tensor:
        """RGB picture -> [3, size, size] float32."""
        box = crop_box(image.width, image.height, self.min_crop_scale, draws)
        image = image.crop(box).resize((self.size, self.size), Image.Resampling.BICUBIC)
        if self.horizontal_flip and draws.uniform() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.rand_augment:
            for _ in range(RAND_AUGMENT_COUNT):
                name, sign = OPERATIONS[draws.below(len(OPERATIONS))], draws.uniform()
                if draws.uniform() < 0.5:
                    image = apply_operation(image, name, 1 if sign < 0.5 else -1)
        return to_tensor(image)


def crop_box(width: int, height: int, min_scale: float, draws: Draws) -> tuple[int, int, int, int]:
    """Corners of a random crop: area in [min_scale, 1], aspect in [3/4, 4/3] log-uniformly.

    Ten tries, then the largest central crop of an allowed aspect (torchvision's
    RandomResizedCrop, which the original uses).
    """
    for _ in range(10):
        area = width * height * draws.uniform(min_scale, 1.0)
        ratio = math.exp(draws.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = draws.below(width - w + 1), draws.below(height - h + 1)
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * 4 / 3)))
    h = min(height, max(1, round(width / (3 / 4))))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def apply_operation(image: Image.Image, name: str, sign: int) -> Image.Image:
    """One operation at strength 5 of 10, geometry filled with grey."""
    width, height = image.size
    if name == "identity":
        return image
    if name == "auto_contrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name in ("brightness", "sharpness"):
        # 0.1 + 1.8 * 0.5 is 1: at BLIP's strength both leave the picture as it is.
        enhance = ImageEnhance.Brightness if name == "brightness" else ImageEnhance.Sharpness
        return enhance(image).enhance(0.1 + 1.8 * STRENGTH)
    if name == "rotate":
        angle = sign * 30 * STRENGTH
        return image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=GREY)
    shear, shift = sign * 0.3 * STRENGTH, sign * 10 * STRENGTH
    matrix = {
        "shear_x": (1, shear, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, shear, 1, 0),
        "translate_x": (1, 0, shift, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, shift),
    }[name]
    bilinear = Image.Resampling.BILINEAR
    return image.transform(
        (width, height), Image.Transform.AFFINE, matrix, bilinear, fillcolor=GREY
    )


def evaluation_view(image: Image.Image, size: int) -> torch.Tensor:
    """RGB picture -> [3, size, size] float32: a plain bicubic resize to the square."""
    return to_tensor(image.resize((size, size), Image.Resampling.BICUBIC))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB bytes -> normalised [3, H, W] float32."""
    pixels = np.asarray(image, np.float32) * SCALE + OFFSET
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
