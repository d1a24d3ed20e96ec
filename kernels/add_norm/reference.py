"""Residual and layer norm by their definition."""

import torch
import torch.nn.functional as F


def add_norm_reference(
    residual: torch.Tensor,
    branch: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    norm_dtype: torch.dtype | None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """s = residual + dropout(branch) and (s - mean) / sqrt(variance + eps) * weight + bias.

    Layer norm as of Ba et al. 2016, arXiv:1607.06450. See `add_norm`.
    """
    total = residual + (F.dropout(branch, dropout) if dropout else branch)
    normed = F.layer_norm(total, weight.shape, weight, bias, eps)
    return total, normed if norm_dtype is None else normed.to(norm_dtype)
