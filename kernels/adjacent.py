"""Tensors that stand side by side in memory already: to join them is to look at them as one."""

from collections.abc import Sequence

import torch


def side_by_side(parts: Sequence[torch.Tensor], dim: int) -> torch.Tensor:
    """Tensors joined along a dimension, for who reads them and asks for no gradients.

    Args:
        parts: of one dtype and of the same shape but for that dimension.
        dim: counted from the first.

    Returns:
        What `torch.cat` does; a view where each part begins where the one before it ends, as the
        parts that `split` makes of one tensor do.
    """
    first = parts[0]
    if not _are_adjacent(parts, dim):
        return torch.cat(list(parts), dim)
    shape = list(first.shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return first.as_strided(shape, first.stride())


def _are_adjacent(parts: Sequence[torch.Tensor], dim: int) -> bool:
    first, place = parts[0], parts[0].storage_offset()
    memory, sizes = first.untyped_storage().data_ptr(), list(first.shape)
    for part in parts:
        sizes[dim] = part.shape[dim]
        alike = (part.dtype, part.stride(), list(part.shape)) == (
            first.dtype,
            first.stride(),
            sizes,
        )
        here = (part.untyped_storage().data_ptr(), part.storage_offset())
        if not alike or here != (memory, place):
            return False
        place += part.shape[dim] * part.stride(dim)
    return True
