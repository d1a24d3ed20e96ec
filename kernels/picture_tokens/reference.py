"""[CLS] and patches with their positions, by definition."""

import torch


def picture_tokens_reference(
    cls_token: torch.Tensor, patches: torch.Tensor, positions: torch.Tensor
) -> torch.Tensor:
    """See `picture_tokens`."""
    return torch.cat([cls_token.expand(len(patches), -1, -1), patches], 1) + positions
