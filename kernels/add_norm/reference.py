"""Residual and layer norm by their definition."""

import torch
import torch.nn.functional as F

from kernels.dropout import dropout as drop


def add_norm_reference(
    residual: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    norm_dtype: torch.dtype | None,
    dropout: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """s = residual + dropout(branch) and (s - mean) / sqrt(variance + eps) * weight + bias.

    Layer norm as of Ba et al. 2016, arXiv:1607.06450. See `add_norm`.
    """
    total = residual
    if branch is not None:
        total = residual + drop(branch, dropout)
    normed = F.layer_norm(total, weight.shape, weight, bias, eps)
    return total, normed if norm_dtype is None else normed.to(norm_dtype)
