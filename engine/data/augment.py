"""BLIP's augmentation by its definition, on Pillow; every draw comes from the slot's counters."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image, ImageOps

from engine.config import DataSection
from engine.data.counter import Draws
from kernels import normalise

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
RAND_AUGMENT_COUNT, STRENGTH = 2, 5 / 10
# Degrees, whole pixels, and pixels a line.
TURN, SHIFT, SHEAR = 30 * STRENGTH, round(10 * STRENGTH), 0.3 * STRENGTH
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
# The enhancing factor is 0.1 + 1.8 * 0.5 = 1: at BLIP's strength the picture stays as it is.
UNCHANGING = ("identity", "brightness", "sharpness")


@dataclass(frozen=True)
class Augmentation:
    """Crop, mirror, RandAugment (N = 2, M = 5), to a square of `size` pixels."""

    size: int
    min_crop_scale: float
    horizontal_flip: bool
    rand_augment: bool

    @classmethod
    def of(cls, data: DataSection, size: int) -> "Augmentation":
        """What a run's configuration describes."""
        return cls(size, data.min_crop_scale, data.horizontal_flip, data.rand_augment)

    def __call__(self, image: Image.Image, draws: Draws) -> torch.Tensor:
        """RGB picture -> [3, size, size] uint8."""
        box = crop_box(image.width, image.height, self.min_crop_scale, draws)
        view = image.crop(box).resize((self.size, self.size), Image.Resampling.BICUBIC)
        mirror, operations = self.drawn(draws)
        if mirror:
            view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for name, sign in operations:
            view = apply_operation(view, name, sign)
        return to_bytes(view)

    def drawn(self, draws: Draws) -> tuple[bool, list[tuple[str, int]]]:
        """Whether a view is mirrored, and the operations with their signs that follow."""
        mirror, operations = self.horizontal_flip and draws.uniform() < 0.5, []
        for _ in range(RAND_AUGMENT_COUNT if self.rand_augment else 0):
            name, sign = OPERATIONS[draws.below(len(OPERATIONS))], draws.uniform()
            if draws.uniform() < 0.5:
                operations.append((name, 1 if sign < 0.5 else -1))
        return mirror, operations


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
    if name in UNCHANGING:
        return image
    if name == "auto_contrast":
        return ImageOps.autocontrast(image)
    if name == "equalize":
        return ImageOps.equalize(image)
    if name == "rotate":
        return image.rotate(sign * TURN, Image.Resampling.BILINEAR, fillcolor=GREY)
    shift = sign * SHIFT
    if name in ("translate_x", "translate_y"):
        # By whole pixels, so nothing is interpolated.
        moved = Image.new("RGB", image.size, GREY)
        moved.paste(image, (-shift, 0) if name == "translate_x" else (0, -shift))
        return moved
    shear = sign * SHEAR
    matrix = (1, shear, 0, 0, 1, 0) if name == "shear_x" else (1, 0, 0, shear, 1, 0)
    bilinear = Image.Resampling.BILINEAR
    return image.transform(
        (width, height), Image.Transform.AFFINE, matrix, bilinear, fillcolor=GREY
    )


def evaluation_view(image: Image.Image, size: int) -> torch.Tensor:
    """RGB picture -> [3, size, size] float32: a plain bicubic resize to the square."""
    return normalised(evaluation_bytes(image, size))


def evaluation_bytes(image: Image.Image, size: int) -> torch.Tensor:
    """The same before it is normalised, uint8. Of many see `engine/data/whole_views.py`."""
    return to_bytes(image.resize((size, size), Image.Resampling.BICUBIC))


def to_bytes(image: Image.Image) -> torch.Tensor:
    """RGB picture -> [3, H, W] uint8."""
    # By NumPy: PyTorch copies by threads, as many again for each thread that makes views.
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def normalised(views: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[..., 3, H, W] uint8 -> float32 or another dtype, on their device, normalised as the original
    does."""
    return normalise(views, *_scale_and_offset(views.device), dtype)


@lru_cache(maxsize=16)
def _scale_and_offset(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """[3] each, kept on the device: a copy there would have to be waited for."""
    numbers = 1 / (255 * STD), -MEAN / STD
    scale, offset = (torch.from_numpy(x).to(device) for x in numbers)
    return scale, offset
