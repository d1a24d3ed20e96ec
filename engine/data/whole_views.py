"""Views of whole pictures, many at once: threads decode, the device that needs views makes them.

On a CPU threads resize too, by Pillow. For a GPU they hand over pixels as they are decoded: of a
photo resizing takes Pillow three times what decoding takes, and the kernel gives the same bytes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from engine.data.augment import evaluation_bytes, normalised
from kernels import resize

# Pixels of a picture, by those of its view, from which on threads resize for a GPU as well: to copy
# it there would take longer.
LARGE = 6


def carried(image: Image.Image, size: int, device: torch.device) -> torch.Tensor:
    """What a thread hands over of an RGB picture, to be viewed at a size on a device.

    Returns:
        uint8: for a CPU the view [3, size, size], for a GPU pixels [H, W, 3].
    """
    if device.type != "cuda":
        return evaluation_bytes(image, size)
    if image.width * image.height > LARGE * size * size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    # By NumPy: PyTorch would have each thread start as many of its own as there are processors.
    return torch.from_numpy(np.array(image))


def whole_views(pictures: Sequence[torch.Tensor], size: int, device: torch.device) -> torch.Tensor:
    """What was carried as one batch [B, 3, size, size] uint8 on its device, not waited for."""
    if device.type != "cuda":
        batch = torch.empty(len(pictures), 3, size, size, dtype=torch.uint8)
        _fill([*batch.numpy()], pictures)
        return batch
    sides = [(picture.shape[0], picture.shape[1]) for picture in pictures]
    there = packed(pictures, pinned=True).to(device, non_blocking=True)
    return resize(there, sides, size)


def packed(pictures: Sequence[torch.Tensor], *, pinned: bool) -> torch.Tensor:
    """Pixels [n] of pictures of any sizes, one behind the other, in memory that a GPU reads or in
    any."""
    ends = np.cumsum([picture.numel() for picture in pictures])
    together = torch.empty(int(ends[-1]), dtype=torch.uint8, pin_memory=pinned)
    parts = np.split(together.numpy(), ends[:-1])
    _fill([p.reshape(x.shape) for p, x in zip(parts, pictures, strict=True)], pictures)
    return together


def brought(pictures: Sequence[torch.Tensor], size: int, device: torch.device) -> torch.Tensor:
    """The same, normalised: [B, 3, size, size] float32."""
    return normalised(whole_views(pictures, size, device))


def _fill(places: Sequence[np.ndarray], pictures: Sequence[torch.Tensor]) -> None:
    # By NumPy: PyTorch copies each one by all its threads, and where others make the next ones
    # meanwhile, every copy waits until the last of them has had a processor (LOG.md).
    for place, picture in zip(places, pictures, strict=True):
        place[...] = picture.numpy()
