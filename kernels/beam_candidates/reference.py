"""The best ways in which beams go on, by their definition."""

import torch


def shaped(
    scores: torch.Tensor,
    ids: torch.Tensor,
    lengths: torch.Tensor,
    *,
    end: int,
    min_length: int,
    penalty: float,
) -> torch.Tensor: ...
