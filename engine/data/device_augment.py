"""RandAugment on tensors of bytes, where they lie: Pillow's arithmetic, so the definition's bytes.

`tests/engine/test_device_augment.py` holds every operation to `apply_operation`, bit by bit. DALI's
own operators are not taken for them. On photographs of 224 pixels its CPU forms are off by up to 6
steps of 255 and 1.5 to 2.8 in the mean (equalize: OpenCV's table), by one step in 45 % of the
values and by up to 47 at the border, which it blends with the fill (warp_affine).
"""

import math
from collections.abc import Sequence

import torch

from engine.data.augment import GREY, OPERATIONS, SHEAR, SHIFT, TURN, UNCHANGING

LOOKED_UP = ("auto_contrast", "equalize")


def encoded_operations(operations: Sequence[tuple[str, int]]) -> list[int]:
    """Names and signs as signed numbers of `OPERATIONS`; 0 changes nothing."""
    return [0 if name in UNCHANGING else sign * OPERATIONS.index(name) for name, sign in operations]


def augmented(views: torch.Tensor, operations: torch.Tensor) -> torch.Tensor:
    """Each view after its operations, one after the other.

    Args:
        views: [N, 3, S, S] uint8, on any device.
        operations: [N, K] of `encoded_operations`, on the host, so that no device is asked which
            views an operation takes.

    Returns:
        [N, 3, S, S] uint8, on the device of the views.
    """
    views = views.clone()
    for column in operations.T.tolist():
        for name in LOOKED_UP:
            number = OPERATIONS.index(name)
            rows = [row for row, code in enumerate(column) if abs(code) == number]
            if rows:
                place = torch.tensor(rows).to(views.device, non_blocking=True)
                views[place] = looked_up(views[place], name)
        moved = [row for row, code in enumerate(column) if code and not _by_table(code)]
        if moved:
            side = views.shape[-1]
            matrices = [matrix_of(column[row], side) for row in moved]
            matrices = torch.tensor(matrices, dtype=torch.float64)
            place = torch.tensor(moved).to(views.device, non_blocking=True)
            views[place] = warped(views[place], matrices.to(views.device, non_blocking=True))
    return views


def _by_table(code: int) -> bool:
    return OPERATIONS[abs(code)] in LOOKED_UP


def looked_up(views: torch.Tensor, name: str) -> torch.Tensor:
    """Views [N, 3, H, W] uint8 through the table that an operation makes of each channel."""
    flat = views.flatten(2).long()
    table = equalizing(flat) if name == "equalize" else stretching(flat)
    return table.to(torch.uint8).gather(2, flat).view_as(views)


def stretching(flat: torch.Tensor) -> torch.Tensor:
    """[N, 3, P] levels -> [N, 3, 256] int64: the lowest to 0, the highest to 255
    (`PIL.ImageOps.autocontrast`)."""
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    levels = torch.arange(256, device=flat.device)
    # A number over a tensor would be its reciprocal times the number, rounded twice.
    span = (high - low).clamp(min=1).double()
    scale = torch.full_like(span, 255.0) / span
    table = (levels * scale + -low * scale).clamp(0, 255).long()
    return torch.where(high > low, table, levels)


def equalizing(flat: torch.Tensor) -> torch.Tensor:
    """[N, 3, P] levels -> [N, 3, 256] int64: as many pixels to each level (`PIL.ImageOps.equalize`,
    in whole numbers)."""
    levels = torch.arange(256, device=flat.device)
    counts = flat.new_zeros((*flat.shape[:2], 256))
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - brightest) // 255
    below = counts.cumsum(2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    return torch.where(step > 0, table, levels)


def matrix_of(code: int, side: int) -> list[float]:
    """What takes pixels of the result to the source's (`PIL.Image.transform`), for a square."""
    name, sign = OPERATIONS[abs(code)], 1 if code > 0 else -1
    if name == "rotate":
        angle, centre = -math.radians(sign * TURN % 360), side / 2
        cosine, sine = round(math.cos(angle), 15), round(math.sin(angle), 15)
        across = cosine * -centre + sine * -centre + 0.0 + centre
        return [cosine, sine, across, -sine, cosine, -sine * -centre + cosine * -centre + centre]
    shift = {"translate_x": (sign * SHIFT, 0), "translate_y": (0, sign * SHIFT)}.get(name, (0, 0))
    slant = {"shear_x": (sign * SHEAR, 0), "shear_y": (0, sign * SHEAR)}.get(name, (0, 0))
    return [1.0, float(slant[0]), float(shift[0]), float(slant[1]), 1.0, float(shift[1])]


def warped(views: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Views moved by their matrices, read between pixels, grey where nothing was.

    Pillow's bilinear filter, to its cutting off of fractions (its Geometry.c, in doubles).

    Args:
        views: [N, 3, H, W] uint8.
        matrices: [N, 6] float64, from `matrix_of`.
    """
    count, channels, height, width = views.shape
    a, b, c, d, e, f = (part[:, None, None] for part in matrices.unbind(1))
    across = torch.arange(width, device=views.device, dtype=torch.float64) + 0.5
    down = (torch.arange(height, device=views.device, dtype=torch.float64) + 0.5)[:, None]
    x, y = a * across + b * down + c, d * across + e * down + f
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    right_share, lower_share = x - 0.5 - left, y - 0.5 - top
    columns = [(left.long() + step).clamp(0, width - 1) for step in (0, 1)]
    lines = [(top.long() + step).clamp(0, height - 1) for step in (0, 1)]
    flat = views.flatten(2)

    def at(line: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        place = (line * width + column).flatten(1)[:, None].expand(-1, channels, -1)
        return flat.gather(2, place).view_as(views).double()

    share = right_share[:, None]
    upper, lower = (
        (first := at(line, columns[0])) + (at(line, columns[1]) - first) * share for line in lines
    )
    mixed = upper + (lower - upper) * lower_share[:, None]
    grey = views.new_tensor(GREY)[:, None, None]
    return torch.where(inside[:, None], mixed.to(torch.uint8), grey)
