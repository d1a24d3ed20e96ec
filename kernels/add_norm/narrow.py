"""Norms that were written in the dtype of products too, beside their own: no cast reads them again.

Nor on the way back: the norm's kernel adds up the gradients of both while it reads them.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch

from kernels.add_norm.origin import Origin, origin_of, tell


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
    """Rows of norms [T, D], for a single product and what does not keep them: with what is written
    beside all, and what all are made of."""
    whole, narrow = torch.cat(parts), [beside(part) for part in parts]
    if all(tensor is not None for tensor in narrow):
        put_beside(whole, torch.cat(narrow))
    origins = [origin_of(part) for part in parts]
    if all(origin is not None for origin in origins):
        tell(whole, Origin.joined(origins))
    return whole


def parted(whole: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:
    """So many rows each of a norm [T, D], with what is written beside and what they are made of."""
    parts, narrow = whole.split(sizes), beside(whole)
    origin = origin_of(whole) if whole.ndim == 2 else None
    rows = [None] * len(parts) if narrow is None else narrow.split(sizes)
    for part, low, last in zip(parts, rows, accumulate(sizes), strict=True):
        own = None if origin is None else origin.rows(len(part), last)
        tell(part, own)
        if low is not None:
            tell(low, own)
            put_beside(part, low)
    return parts
