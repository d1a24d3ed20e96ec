"""How the original loads pairs: annotation JSON, Pillow, RandAugment; and how webdataset does.

Our rendering of salesforce/BLIP (data/pretrain_dataset.py, transform/randaugment.py). Its OpenCV
operations are done by Pillow here, which is no slower.
"""

import json
import math
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import DataLoader, Dataset

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
GREY, LEVEL, OPERATIONS_A_PICTURE = (128, 128, 128), 5 / 10, 2
Loaded = tuple[torch.Tensor, str]


def affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Warp with grey outside."""
    bilinear = Image.Resampling.BILINEAR
    return image.transform(image.size, Image.Transform.AFFINE, matrix, bilinear, fillcolor=GREY)


def signed(value: float) -> float:
    """The value or its negative, evenly."""
    return value if random.random() > 0.5 else -value


OPERATIONS: tuple[Callable[[Image.Image], Image.Image], ...] = (
    lambda image: image,
    ImageOps.autocontrast,
    ImageOps.equalize,
    lambda image: ImageEnhance.Brightness(image).enhance(0.1 + 1.8 * LEVEL),
    lambda image: ImageEnhance.Sharpness(image).enhance(0.1 + 1.8 * LEVEL),
    lambda image: affine(image, (1, signed(0.3 * LEVEL), 0, 0, 1, 0)),
    lambda image: affine(image, (1, 0, 0, signed(0.3 * LEVEL), 1, 0)),
    lambda image: affine(image, (1, 0, signed(10 * LEVEL), 0, 1, 0)),
    lambda image: affine(image, (1, 0, 0, 0, 1, signed(10 * LEVEL))),
    lambda image: image.rotate(signed(30 * LEVEL), Image.Resampling.BILINEAR, fillcolor=GREY),
)


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
    """The original's training transform of an RGB picture: [3, size, size]."""
    image = random_crop(image, size, 0.2)
    if random.random() < 0.5:
        image = ImageOps.mirror(image)
    for operation in random.choices(OPERATIONS, k=OPERATIONS_A_PICTURE):
        if random.random() > 0.5:
            image = operation(image)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    return pixels.float().div(255).sub_(MEAN).div_(STD)


def clean(caption: str) -> str:
    """The original's caption cleaning, at most 30 words."""
    caption = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    caption = re.sub(r"\s{2,}", " ", caption).rstrip("\n").strip(" ")
    return " ".join(caption.split(" ")[:30])


class AnnotatedPairs(Dataset):
    """Pairs of an annotation file, the list held in Python memory."""

    def __init__(self, annotation: Path, size: int) -> None:
        self.rows: list[dict[str, Any]] = json.loads(annotation.read_text())
        self.size = size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Loaded:
        row = self.rows[number]
        image = Image.open(row["image"]).convert("RGB")
        return augment(image, self.size), clean(row["caption"])


def together(samples: list[Loaded]) -> tuple[torch.Tensor, list[str]]:
    """Samples to a batch; the original tokenizes in the model."""
    return torch.stack([image for image, _ in samples]), [caption for _, caption in samples]


def original_batches(annotation: Path, size: int, batch: int, workers: int) -> DataLoader:
    """The original's loader over an annotation file."""
    return DataLoader(
        AnnotatedPairs(annotation, size),
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        collate_fn=together,
    )


def webdataset_samples(shards: list[Path]) -> Iterator:
    """webdataset's shuffled samples as they are stored, nothing decoded.

    Raises:
        ImportError: webdataset is not installed.
    """
    import webdataset

    names = [str(path) for path in shards]
    return iter(webdataset.WebDataset(names, shardshuffle=len(names)).shuffle(1000))


def webdataset_batches(shards: list[Path], size: int, batch: int, workers: int) -> Iterator:
    """The usual webdataset pipeline over tar shards, with the original's transform.

    Raises:
        ImportError: webdataset is not installed.
    """
    import webdataset

    def prepare(image: Image.Image, caption: str) -> Loaded:
        return augment(image, size), clean(caption)

    dataset = (
        webdataset.WebDataset([str(path) for path in shards], shardshuffle=len(shards))
        .shuffle(1000)
        .decode("pilrgb")
        .to_tuple("jpg;png", "txt")
        .map(lambda sample: prepare(*sample))
    )
    return iter(DataLoader(dataset, batch, num_workers=workers, collate_fn=together))
