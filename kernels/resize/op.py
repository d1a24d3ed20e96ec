"""Many pictures resized at once, to the bytes that Pillow gives."""

from collections.abc import Sequence

import torch

from kernels.backend import choose, fusing_problem
from kernels.resize.reference import resize_reference

# Pictures that one launch can name, and bytes of one that 32 bits can count.
MOST, LARGEST = 65_535, 2**31 - 2**16


def resize(
    pixels: torch.Tensor,
    sides: Sequence[tuple[int, int]],
    size: int,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """RGB pictures of any sizes as squares, by Pillow's bicubic filter and to its very bytes.

    Args:
        pixels: [sum of 3 H W] uint8, one picture behind the other, each [H, W, 3].
        sides: height and width of each.
        size: of the squares' sides.
        backend: `triton` (GPU: two launches for all pictures), `reference` (one after the other) or
            `auto`.

    Returns:
        [B, 3, size, size] uint8.

    Raises:
        ValueError: sides that do not fit the pixels, another dtype, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    whole = [len(both) == 2 and min(both) > 0 for both in sides]
    held = sum(3 * height * width for height, width in sides) if all(whole) else None
    if pixels.dtype != torch.uint8 or pixels.shape != (held,) or size < 1:
        raise ValueError(
            f"resize: {pixels.dtype} {tuple(pixels.shape)} must be uint8 [sum of 3 H W] of sides "
            f"(H, W) that are at least 1; of the {len(sides)} given it is {held}; size {size}"
        )
    problem = fusing_problem(pixels, backend)
    if len(sides) > MOST:
        problem = f"{len(sides)} pictures are more than one launch can name"
    if any(3 * max(height, size) * max(width, size) > LARGEST for height, width in sides):
        problem = "a picture is larger than 32 bits can count"
    chosen = choose("resize", backend, {"triton": problem, "reference": None}, pixels)
    if chosen == "reference":
        return resize_reference(pixels, sides, size)
    from kernels.resize import triton_kernels

    return triton_kernels.forward(pixels.contiguous(), sides, size)
