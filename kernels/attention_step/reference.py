"""A token's attention to those before it, kept in caches, by its definition."""

import torch

from kernels.attention_step.places import Places


def attention_step_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: Places,
) -> torch.Tensor:
    """Put the new ones in their places, bring the rows together, attend. See `attention_step_`."""
    rows, heads, length, width = keys.shape
    new, seen, mask = places.rows_and_mask(heads, length)
    found = []
    for cache, one in ((keys, key), (values, value)):
        # As rows of one head of one token: a CPU takes a sixth of the time that indexing does.
        flat = cache.view(-1, width)
        flat.index_copy_(0, new, one.reshape(-1, width).to(cache.dtype))
        flat = flat if seen is None else flat.index_select(0, seen)
        found.append(flat.view(-1, length, width))
    # A row of a head is a batch: on a CPU products of so few numbers are fastest in float32.
    query = query.to(keys.dtype).view(-1, 1, width)
    scores = torch.baddbmm(mask.to(keys.dtype), query, found[0].transpose(1, 2), alpha=width**-0.5)
    return torch.bmm(scores.softmax(-1), found[1]).view(rows, -1)
