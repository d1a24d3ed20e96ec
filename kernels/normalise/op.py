"""Bytes of pictures as the numbers that a network takes, in one pass."""

import torch

from kernels.backend import choose, fusing_problem
from kernels.normalise.reference import normalise_reference


def normalise(
    views: torch.Tensor,
    scale: torch.Tensor,
    offset: torch.Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    backend: str = "auto",
) -> torch.Tensor:
    """byte * scale + offset by colour, in float32, rounded after each.

    Args:
        views: [..., 3, H, W] uint8.
        scale: [3] float32.
        offset: [3] float32.
        dtype: of the result, to which it is rounded once more.
        backend: `triton` (GPU), `reference` or `auto`.

    Returns:
        [..., 3, H, W].

    Raises:
        ValueError: shapes or dtypes that do not fit, or an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    shapes = [tuple(tensor.shape) for tensor in (views, scale, offset)]
    kinds = views.dtype, scale.dtype, offset.dtype
    fitting = views.ndim > 2 and shapes[0][-3] == 3 and shapes[1:] == [(3,), (3,)]
    if not fitting or kinds != (torch.uint8, torch.float32, torch.float32):
        raise ValueError(
            f"normalise: {kinds[0]} {shapes[0]}, {kinds[1]} {shapes[1]} and {kinds[2]} {shapes[2]} "
            "must be uint8 [..., 3, H, W] and float32 [3] twice"
        )
    problems = {"triton": fusing_problem(views, backend), "reference": None}
    if choose("normalise", backend, problems, views) == "reference":
        return normalise_reference(views, scale, offset, dtype)
    from kernels.normalise import triton_kernels

    return triton_kernels.forward(views.contiguous(), scale, offset, dtype)
