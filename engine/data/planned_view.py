"""Views that a device will make: what of which bytes to decode, and what was drawn for them.

Every draw is the slot's own and made here, on the host, in the definition's order; a device only
does as it is told, so a view is the same function of its slot wherever it is made.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.data.augment import RAND_AUGMENT_COUNT, Augmentation, crop_box
from engine.data.counter import Draws
from engine.data.device_augment import encoded_operations
from engine.data.fast_view import Box, usable_sides
from engine.data.jpeg import is_whole
from engine.data.jpeg_header import keeps_rgb


@dataclass(frozen=True)
class PlannedView:
    """One of them.

    Attributes:
        content: a JPEG that was looked through to its end.
        box: corners of the crop.
        mirror: whether it is mirrored.
        operations: RandAugment's, encoded.
        size: of its sides.
    """

    content: bytes
    box: Box
    mirror: bool
    operations: list[int]
    size: int


def plan(
    content: bytes | None, max_pixels: int, augmentation: Augmentation, draws: Draws
) -> PlannedView | None:
    """The view that `augmentation` draws; None where the host must decode, or judge, the picture.

    Whole colour JPEGs of 8 bits are planned. All else (PNG, WebP, grey, CMYK, kept as RGB, cut
    off, too large, not a picture) goes the host's way, which makes the view or says what is bad.
    """
    sides = usable_sides(content, max_pixels)
    if sides is None or not is_whole(content) or keeps_rgb(content):
        return None
    box = crop_box(*sides, augmentation.min_crop_scale, draws)
    mirror, operations = augmentation.drawn(draws)
    return PlannedView(content, box, mirror, encoded_operations(operations), augmentation.size)


@dataclass(frozen=True)
class PlannedViews:
    """Those of a batch, as tensors on the host, which loader processes hand over without a copy.

    Attributes:
        rows: [P] int64, the batch's rows that they are of.
        encoded: [N] uint8, one picture after the other.
        ends: [P] int64, where each ends.
        boxes: [P, 4] int32, left, top, right, bottom.
        mirror: [P] int32, 0 or 1.
        operations: [P, 2] int64, encoded.
        size: of the views' sides.
    """

    rows: torch.Tensor
    encoded: torch.Tensor
    ends: torch.Tensor
    boxes: torch.Tensor
    mirror: torch.Tensor
    operations: torch.Tensor
    size: int

    @classmethod
    def of(cls, images: Sequence["torch.Tensor | PlannedView"]) -> "PlannedViews | None":
        """Those among a batch's images; None where there are none."""
        rows = [row for row, image in enumerate(images) if isinstance(image, PlannedView)]
        planned = [images[row] for row in rows]
        if not planned:
            return None
        operations = torch.zeros(len(planned), RAND_AUGMENT_COUNT, dtype=torch.int64)
        for row, one in zip(operations, planned, strict=True):
            row[: len(one.operations)] = torch.tensor(one.operations, dtype=torch.int64)
        return cls(
            torch.tensor(rows),
            torch.frombuffer(bytearray(b"".join(p.content for p in planned)), dtype=torch.uint8),
            torch.tensor([len(one.content) for one in planned]).cumsum(0),
            torch.tensor([one.box for one in planned], dtype=torch.int32),
            torch.tensor([one.mirror for one in planned], dtype=torch.int32),
            operations,
            planned[0].size,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def contents(self) -> list[np.ndarray]:
        """The encoded pictures, [n] uint8 each."""
        return np.split(self.encoded.numpy(), self.ends[:-1].tolist())

    def alone(self, number: int) -> "PlannedViews":
        """One of them, as if it were the only one."""
        part = slice(number, number + 1)
        encoded = torch.from_numpy(self.contents()[number])
        ends, places = torch.tensor([len(encoded)]), (self.boxes, self.mirror, self.operations)
        return PlannedViews(
            self.rows[part], encoded, ends, *(tensor[part] for tensor in places), self.size
        )
