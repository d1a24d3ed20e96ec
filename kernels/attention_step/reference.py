"""A token's attention to those before it, kept in caches, by its definition."""

import torch

from kernels.attention.op import attention


def attention_step_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    origins: torch.Tensor | None,
) -> torch.Tensor:
    """Put the new ones in their places, bring the rows together, attend. See `attention_step_`."""
    rows = torch.arange(len(places), device=places.device)
    for cache, new in ((keys, key), (values, value)):
        cache[rows, :, places] = new.to(cache.dtype)
    length = torch.arange(keys.shape[2], device=places.device)
    if origins is not None:
        heads = torch.arange(keys.shape[1], device=places.device)[:, None]
        keys, values = (cache[origins[:, None], heads, length] for cache in (keys, values))
    seen = length <= places[:, None]
    return attention(query[:, :, None], keys, values, key_mask=seen)[:, :, 0].flatten(1)
