"""Pillow's bicubic filter as whole numbers: what each line or column of a view is added up from.

Pillow 8-bit (src/libImaging/Resample.c): weights in float64, made to add up to one, then rounded to
22 binary places; each of two passes adds up in 32 bits and rounds to a byte.
"""

import math

import PIL
import torch

BITS = 22
VERSION = tuple(int(part) for part in PIL.__version__.split(".")[:2])
SHARPNESS = -0.5


def taps_of(inside: int, size: int) -> int:
    """Most lines that one is added up from, of a picture with so many, for a view of `size`."""
    return 2 * math.ceil(2 * max(inside / size, 1.0)) + 1


def columns_first(height: int, width: int, size: int) -> bool:
    """Whether Pillow filters along columns before it filters along lines, which rounds otherwise.

    Since 12.2 it does for what is over a hundred times as high as wide, since 13 where that is less
    work. Found by trying both orders (`pytest tests/kernels/test_resize.py`).
    """
    if VERSION >= (13, 0):
        return height > max(size, 2 * width - size)
    return VERSION >= (12, 2) and height > 100 * width


def cubic_taps(inside: torch.Tensor, size: int, taps: int) -> torch.Tensor:
    """Weights of pictures with `inside` [U] lines each for views with `size`.

    Each operation rounds by itself, in Pillow's order, on a GPU as on a CPU.

    Args:
        inside: int64.
        size: of the views' sides.
        taps: the largest `taps_of`.

    Returns:
        [U, 1 + taps, size] int32: the first line that counts, then the weights from there on; those
        of lines outside the picture are 0.
    """
    # By a tensor of the device: a GPU multiplies by the inverse of a number, which rounds twice.
    scale = (inside.double() / torch.full_like(inside, size, dtype=torch.float64))[:, None]
    wide = scale.clamp(min=1.0)
    middle = (torch.arange(size, device=inside.device).double() + 0.5) * scale
    first = (middle - 2.0 * wide + 0.5).long().clamp(min=0)
    last = torch.minimum((middle + 2.0 * wide + 0.5).long(), inside[:, None])
    line = first[:, None] + torch.arange(taps, device=inside.device)[None, :, None]
    weights = _cubic((line - middle[:, None] + 0.5) * (1.0 / wide)[:, None])
    weights = torch.where(line < last[:, None], weights, 0.0)
    total = torch.zeros_like(middle)
    for one in weights.unbind(1):
        total = total + one
    weights = weights / total[:, None] * (1 << BITS)
    rounded = torch.where(weights < 0, weights - 0.5, weights + 0.5).trunc()
    return torch.cat([first[:, None], rounded.long()], 1).int()


def _cubic(x: torch.Tensor) -> torch.Tensor:
    x = x.abs()
    near = (x * (SHARPNESS + 2.0) - (SHARPNESS + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * SHARPNESS
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, 0.0))
