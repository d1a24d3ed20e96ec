"""Attention of packed rows by its definition, one row after the other."""

import torch

from kernels.attention.reference import attention_reference


def attention_rows_reference(
    query_QHK: torch.Tensor,
    key_THK: torch.Tensor,
    value_THK: torch.Tensor,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    *,
    causal: bool,
    dropout: float,
) -> torch.Tensor:
    """Each row's queries attend to its keys; 0 for queries of no row. See `attention_rows`."""
    parts, place = [], 0
    for first, length, key_first, key_length in zip(*(t.tolist() for t in rows), strict=True):
        parts.append(query_QHK[place:first] * 0)
        query, key, value = (
            tokens.narrow(0, start, count).transpose(0, 1)
            for tokens, start, count in (
                (query_QHK, first, length),
                (key_THK, key_first, key_length),
                (value_THK, key_first, key_length),
            )
        )
        mask = None
        if causal:
            shape = length, key_length
            mask = torch.ones(shape, dtype=torch.bool, device=query.device).tril()
        parts.append(attention_reference(query, key, value, mask, dropout).transpose(0, 1))
        place = first + length
    return torch.cat([*parts, query_QHK[place:] * 0])
