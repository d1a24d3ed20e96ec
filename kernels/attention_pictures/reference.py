"""Attention of packed queries to pictures by its definition, one picture after the other."""

import torch

from kernels.attention.reference import attention_reference


def attention_pictures_reference(
    query_THK: torch.Tensor,
    key_BSHK: torch.Tensor,
    value_BSHK: torch.Tensor,
    order_T: torch.Tensor,
    starts: torch.Tensor,
    *,
    dropout: float,
) -> torch.Tensor:
    """Each picture's queries attend to its keys; 0 for queries of none. See
    `attention_pictures`."""
    bounds = starts.tolist()
    parts = []
    for picture, (begin, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        query = query_THK[order_T[begin:end]].transpose(0, 1)
        key, value = (pictures[picture].transpose(0, 1) for pictures in (key_BSHK, value_BSHK))
        parts.append(attention_reference(query, key, value, None, dropout).transpose(0, 1))
    spare = query_THK[order_T[bounds[-1] :]] * 0
    ordered = torch.cat([*parts, spare])
    return torch.zeros_like(ordered).index_copy(0, order_T.long(), ordered)
