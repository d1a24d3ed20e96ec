"""Attention by its definition, scores materialised."""

import torch
import torch.nn.functional as F

from kernels.dropout import dropout as drop


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
    return drop(scores.softmax(-1), dropout) @ value


def attention_packed_reference(
    query_THK: torch.Tensor,
    key_SHK: torch.Tensor,
    value_SHK: torch.Tensor,
    starts_of_queries: torch.Tensor,
    starts_of_keys: torch.Tensor,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """Each sequence attends to its own keys, one after the other. See `attention_packed`."""
    ends = zip(starts_of_queries.diff().tolist(), starts_of_keys.diff().tolist(), strict=True)
    sizes = tuple(zip(*ends, strict=True))
    queries = query_THK.transpose(0, 1).split(sizes[0], 1)
    keys = key_SHK.transpose(0, 1).split(sizes[1], 1)
    values = value_SHK.transpose(0, 1).split(sizes[1], 1)
    seen = []
    for query, key, value in zip(queries, keys, values, strict=True):
        mask = None
        if causal:
            shape = query.shape[1], key.shape[1]
            mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
        seen.append(attention_reference(query, key, value, mask, dropout))
    return torch.cat(seen, 1).transpose(0, 1)


def attention_absorbed_reference(
    query: torch.Tensor,
    source: torch.Tensor,
    key_weight: torch.Tensor,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor,
) -> torch.Tensor:
    """Keys and values are projected and attended to. See `attention_absorbed`."""
    heads = (query.shape[1], -1)
    key = F.linear(source, key_weight.flatten(0, 1)).unflatten(2, heads).transpose(1, 2)
    value = (
        F.linear(source, value_weight.flatten(0, 1), value_bias).unflatten(2, heads).transpose(1, 2)
    )
    return attention_reference(query, key, value, None, 0.0).transpose(1, 2).flatten(2)
