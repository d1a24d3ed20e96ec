"""Views of whole pictures, many at once: threads decode, the device that needs views makes them.

On a CPU threads resize too, by Pillow. For a GPU they hand over pixels as they are decoded: of a
photo resizing takes Pillow three times what decoding takes, and the kernel gives the same bytes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from engine.data.augment import evaluation_bytes, normalised
from engine.data.fast_view import decoded, usable_sides
from engine.data.images import decode_image
from engine.data.jpeg import fastest
from kernels import resize

# Pixels of a picture, by those of its view, from which on threads resize for a GPU as well: to copy
# it there would take longer.
LARGE = 6


def picture_for(
    content: bytes | None, max_pixels: int, device: torch.device
) -> Image.Image | np.ndarray:
    """Decode for `carried`: `decode_image`'s picture, for a GPU its pixels [H, W, 3].

    Raises:
        BadSample: as `decode_image`.
    """
    if device.type != "cuda" or usable_sides(content, max_pixels) is None:
        return decode_image(content, max_pixels)
    # The same bytes as Pillow's, without its copies, for each of which threads wait for Python.
    return decoded(content, max_pixels, fastest())


def carried(picture: Image.Image | np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """What a thread hands over of an RGB picture, to be viewed at a size on a device.

    Returns:
        uint8: for a CPU the view [3, size, size], for a GPU pixels [H, W, 3].
    """
    if device.type != "cuda":
        return evaluation_bytes(picture, size)
    # By NumPy: PyTorch would have each thread start as many of its own as there are processors.
    pixels = np.array(picture) if isinstance(picture, Image.Image) else picture
    if pixels.shape[0] * pixels.shape[1] > LARGE * size * size:
        view = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        pixels = np.array(view)
    return torch.from_numpy(pixels)


def whole_views(pictures: Sequence[torch.Tensor], size: int, device: torch.device) -> torch.Tensor:
    """What was carried as one batch [B, 3, size, size] uint8 on its device, not waited for."""
    if device.type != "cuda":
        return packed(pictures, pinned=False).view(len(pictures), 3, size, size)
    sides = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    there = packed(pictures, pinned=True).to(device, non_blocking=True)
    return resize(there, sides, size)


def packed(pictures: Sequence[torch.Tensor], *, pinned: bool) -> torch.Tensor:
    """Bytes [n] of what was carried, one behind the other, in memory that a GPU reads or in any."""
    together = torch.empty(sum(map(torch.numel, pictures)), dtype=torch.uint8, pin_memory=pinned)
    place, target = 0, memoryview(together.numpy())
    for picture in pictures:
        # Not by PyTorch, whose threads wait for processors that others decode on, nor by NumPy,
        # which lets the others have Python for every copy and waits to have it back (LOG.md).
        bytes_held = memoryview(picture.numpy()).cast("B")
        target[place : place + len(bytes_held)] = bytes_held
        place += len(bytes_held)
    return together


def brought(pictures: Sequence[torch.Tensor], size: int, device: torch.device) -> torch.Tensor:
    """The same, normalised: [B, 3, size, size] float32."""
    return normalised(whole_views(pictures, size, device))
