"""Norms that were written in the dtype of products too, beside their own: no cast reads them again.

So does the way back: the norm's kernel adds up both gradients while it reads them.
"""

from collections.abc import Sequence

import torch


def beside(x: torch.Tensor) -> torch.Tensor | None:
    """What was written beside a tensor, if that has not been changed since."""
    narrow, changes = getattr(x, "low", (None, 0))
    return None if narrow is None or _changes(x) != changes else narrow


def put_beside(x: torch.Tensor, narrow: torch.Tensor) -> None:
    """Have `beside` and `rounded` find the same numbers in another dtype."""
    x.low = (narrow, _changes(x))


def _changes(x: torch.Tensor) -> int:
    """How often it was changed; nobody counts for tensors of `torch.inference_mode`."""
    return 0 if x.is_inference() else x._version


def rounded(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x in this dtype: as it was written beside it, if it was, or cast."""
    narrow = beside(x)
    return x.to(dtype) if narrow is None or narrow.dtype != dtype else narrow


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Rows of all parts, and what is written beside all of them."""
    whole, narrow = torch.cat(parts), [beside(part) for part in parts]
    if all(tensor is not None for tensor in narrow):
        put_beside(whole, torch.cat(narrow))
    return whole


def parted(whole: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """So many rows each, and what is written beside them."""
    parts, narrow = whole.split(sizes), beside(whole)
    if narrow is not None:
        for part, rows in zip(parts, narrow.split(sizes), strict=True):
            put_beside(part, rows)
    return parts
