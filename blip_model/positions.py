"""Position embeddings for another picture size."""

import torch
import torch.nn.functional as F


def resize_positions(positions: torch.Tensor, tokens: int) -> torch.Tensor:
    """Resize [1, P, D] bicubically to `tokens`; the CLS entry is kept as it is (as the original).

    Raises:
        ValueError: a count that is not a square plus one.
    """
    if positions.shape[1] == tokens:
        return positions
    old, new = round((positions.shape[1] - 1) ** 0.5), round((tokens - 1) ** 0.5)
    if old * old != positions.shape[1] - 1 or new * new != tokens - 1:
        raise ValueError(f"position embeddings {positions.shape[1]} -> {tokens}: not square grids")
    grid = positions[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2).float()
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    grid = grid.permute(0, 2, 3, 1).flatten(1, 2).to(positions.dtype)
    return torch.cat([positions[:, :1], grid], 1)
