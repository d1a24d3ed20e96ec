"""How the original loads pairs: annotation JSON, Pillow, RandAugment; and how webdataset does.

Our rendering of salesforce/BLIP (data/pretrain_dataset.py).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.original_augmentation import augment

Loaded = tuple[torch.Tensor, str]


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
