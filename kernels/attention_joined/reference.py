"""Self-attention of joined queries, keys and values by its definition."""

from collections.abc import Iterator

import torch

from kernels.attention.reference import attention_reference


def attention_joined_reference(joined_BPE: torch.Tensor, heads: int) -> torch.Tensor:
    """See `attention_joined`."""
    seen = attention_reference(*parts_of(joined_BPE, heads), None, 0.0)
    return seen.transpose(1, 2).flatten(2)


def parts_of(joined_BPE: torch.Tensor, heads: int) -> Iterator[torch.Tensor]:
    """Queries, keys and values [B, H, P, K], whose gradients are joined by one copy."""
    of_heads = joined_BPE.unflatten(2, (3, heads, -1)).unbind(2)
    return (part.transpose(1, 2) for part in of_heads)
