"""The momentum encoders' arithmetic."""

import torch


@torch.no_grad()
def ema_(targets: list[torch.Tensor], sources: list[torch.Tensor], momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * source, in place, over all tensors at once.

    Args:
        targets: momentum weights.
        sources: online weights of the same shapes.
        momentum: m in [0, 1].

    Raises:
        ValueError: lists of different lengths.
    """
    if len(targets) != len(sources):
        raise ValueError(f"ema_: {len(targets)} targets but {len(sources)} sources")
    if targets:
        torch._foreach_mul_(targets, momentum)
        torch._foreach_add_(targets, sources, alpha=1 - momentum)
