"""Attention by its definition, scores materialised."""

import torch


def attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """softmax(q k^T / sqrt(K)) v with dropout on the probabilities (Vaswani et al. 2017).

    Args:
        query: [B, H, L, K].
        key: [B, H, S, K].
        value: [B, H, S, K].
        mask: bool, broadcastable to [B, H, L, S], True where a query attends, or None.
        dropout: probability of dropping an attention weight.

    Returns:
        [B, H, L, K].
    """
    # Scaled before the product: the smaller tensor. Softmax adds up in float32 in any dtype.
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.dropout(scores.softmax(-1), dropout, dropout > 0) @ value
