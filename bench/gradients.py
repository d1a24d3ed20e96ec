"""Sides that go forward and backward, and whether their gradients agree."""

from collections.abc import Callable

import torch

from bench.interleaved import Side


def with_gradient(
    loss: Callable[[], torch.Tensor], leaves: list[torch.Tensor], upstream: torch.Tensor | None
) -> Side:
    """Forward and backward of a function; gradients are returned, not accumulated."""
    return lambda: torch.autograd.grad(loss(), leaves, upstream)


def agree(sides: dict[str, Side], tolerance: float) -> None:
    """All sides give the first one's gradients, to a share of their largest entry."""
    first, *others = ([tensor.float() for tensor in side()] for side in sides.values())
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            scale = ours.abs().max().clamp(min=1e-12)
            assert (ours - theirs).abs().max() / scale < tolerance
