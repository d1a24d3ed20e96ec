"""Attention by its definition, so many heads at a time that their scores stay in a CPU's caches."""

import torch
import torch.nn.functional as F

from kernels.attention.reference import attention_reference

# Bytes of scores that the products and the softmax between them hand on: what two cores hold.
SCORES_AT_ONCE = 2 * 2**20
# Products of an odd number of rows, 577 of a picture with its class token, take a sixth longer.
ROWS_MULTIPLE = 4


def attention_by_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout: float
) -> torch.Tensor:
    """As `attention_reference` without a mask, to the bit.

    All scores at once go through memory twice, and the allocator maps so large a block anew, whose
    first touch costs as much as the products. What the products read is laid out head by head once;
    each of them would do that for itself.

    Args:
        query: [B, H, L, K].
        key: [B, H, S, K].
        value: [B, H, S, K].
        dropout: probability of dropping an attention weight.

    Returns:
        [B, H, L, K].
    """
    shape, size = query.shape[:2], query.shape[2] * key.shape[2] * query.element_size()
    count = max(1, SCORES_AT_ONCE // max(size, 1))
    if count >= query.shape[0] * query.shape[1]:
        return attention_reference(query, key, value, None, dropout)
    length = query.shape[2]
    query = F.pad(query, (0, 0, 0, -length % ROWS_MULTIPLE))
    query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
    context = query.new_empty(len(query), length, query.shape[2])
    blocks = (tensor.split(count) for tensor in (context, query, key, value))
    for seen, *given in zip(*blocks, strict=True):
        seen.copy_(attention_reference(*given, None, dropout)[:, :length])
    return context.unflatten(0, shape)
