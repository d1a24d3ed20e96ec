"""A picture as Pillow resizes it, by definition."""

from collections.abc import Sequence

import torch

from kernels.resize.filter import BITS, columns_first, cubic_taps, taps_of


def resize_reference(
    pixels: torch.Tensor, sides: Sequence[tuple[int, int]], size: int
) -> torch.Tensor:
    """See `resize`."""
    ends = [3 * height * width for height, width in sides]
    pictures = zip(pixels.split(ends), sides, strict=True)
    views = [_resized(one.view(*shape, 3), size) for one, shape in pictures]
    if not views:
        return pixels.new_empty(0, 3, size, size)
    return torch.stack(views).permute(0, 3, 1, 2).contiguous()


def _resized(picture: torch.Tensor, size: int) -> torch.Tensor:
    """[H, W, 3] -> [size, size, 3]."""
    order = (0, 1) if columns_first(*picture.shape[:2], size) else (1, 0)
    for axis in order:
        picture = _along(picture, axis, size)
    return picture


def _along(picture: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    lines = picture.movedim(axis, 0).int()
    inside = torch.tensor([len(lines)], device=picture.device)
    first, *weights = cubic_taps(inside, size, taps_of(len(lines), size))[0].unbind(0)
    total = lines.new_full((size, *lines.shape[1:]), 1 << (BITS - 1))
    for number, weight in enumerate(weights):
        # Weights of lines outside the picture are 0, whatever stands for these.
        line = (first + number).clamp(max=len(lines) - 1)
        total += lines[line.long()] * weight[:, None, None]
    return (total >> BITS).clamp(0, 255).to(picture.dtype).movedim(0, axis)
