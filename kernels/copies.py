"""Copies of weights in fewer bits, kept beside them: products read them and cast nothing.

Whoever changes weights keeps `Copies` of them up. A copy is read only while its weight is what it
was made of: PyTorch counts the changes of a tensor, and a weight that has changed since, or lies
elsewhere by now, is cast as if it had no copy. What writes weights past that count, through other
tensors of the same memory, must tell it: `torch.autograd.graph.increment_version`.

Copies of matrices stand side by side in the order of their weights, and so do those of vectors:
several maps of one input are one product of what lies there.
"""

import weakref
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate

import torch
from torch.utils.weak import WeakTensorKeyDictionary

# Bytes: what a GPU loads at once, and its products ask of where they begin.
ALIGNMENT = 16


class _Copy:
    """What a weight finds, as long as its `Copies` live.

    Attributes:
        values: in the memory that stays the copy's, without gradient.
        trained: the same memory as autograd sees it, a cast that was made once: gradients of all
            that reads it add up in its dtype, like those of a cast that autocast keeps, and reach
            the weight in the weight's. On a CPU alone: a GPU's recorded passes need every part of
            a graph to come from them. None too for a weight that did not train when it was made.
        state: of the weight whose values these are.
    """

    def __init__(self, weight: torch.Tensor, place: torch.Tensor) -> None:
        with torch.enable_grad():
            trained = place.copy_(weight)
        self.values = trained.detach()
        self.trained = trained if trained.requires_grad and not weight.is_cuda else None
        self.state = _state(weight)


# From a weight to its copy, as long as both live. Not on the weight: it would be saved with it.
_KEPT = WeakTensorKeyDictionary()


def _state(weight: torch.Tensor) -> tuple[int, int]:
    return weight._version, weight.data_ptr()


def _places(weights: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Of their copies in one piece of memory on their device, each at a multiple of `ALIGNMENT`.

    They are no views of each other: changes of each are counted apart.
    """
    step = ALIGNMENT // dtype.itemsize
    ends = list(accumulate(-(-weight.numel() // step) * step for weight in weights))
    memory = torch.empty(ends[-1], dtype=dtype, device=weights[0].device).untyped_storage()
    places = []
    for weight, first in zip(weights, [0, *ends[:-1]], strict=True):
        stride = torch.empty_like(weight, device="meta").stride()
        place = torch.empty(0, dtype=dtype, device=weight.device)
        places.append(place.set_(memory, first, weight.shape, stride))
    return places


class Copies:
    """Copies of some weights, in places that stay.

    Args:
        weights: each keeps nothing but the way to its copy, which ends with this object.
        dtype: of the copies.
    """

    def __init__(self, weights: Iterable[torch.Tensor], dtype: torch.dtype) -> None:
        self._copies = {}
        by_device = defaultdict(list)
        for weight in sorted(dict.fromkeys(weights), key=lambda weight: weight.ndim < 2):
            by_device[weight.device].append(weight)
        for here in by_device.values():
            for weight, place in zip(here, _places(here, dtype), strict=True):
                self._copies[weight] = copy = _Copy(weight, place)
                _KEPT[weight] = weakref.ref(copy)

    def of(self, weight: torch.Tensor | None) -> torch.Tensor | None:
        """Where the copy lies, for a pass that writes it with its weight; None without one."""
        copy = self._copies.get(weight)
        return None if copy is None else copy.values

    @torch.no_grad()
    def refresh(self) -> int:
        """Write the copies whose weights have changed since; how many there were."""
        pairs = self._copies.items()
        stale = {weight: copy.values for weight, copy in pairs if copy.state != _state(weight)}
        if stale:
            torch._foreach_copy_(list(stale.values()), [weight.detach() for weight in stale])
            self.written(stale)
        return len(stale)

    def check(self) -> None:
        """Compare all copies with their weights, which waits for the device.

        Raises:
            RuntimeError: some differ: a weight was written past PyTorch's count.
        """
        self.refresh()
        pairs = self._copies.items()
        wrong = [w for w, c in pairs if not torch.equal(c.values, w.detach().to(c.values.dtype))]
        if wrong:
            shapes = ", ".join(str(list(weight.shape)) for weight in wrong[:3])
            raise RuntimeError(
                f"{len(wrong)} of {len(pairs)} copies are not those of their weights ({shapes}): "
                "what writes weights must count it, see kernels/copies.py"
            )

    def written(self, weights: Iterable[torch.Tensor]) -> None:
        """Copies have been written with these weights, if they have any, and all were current
        before: a pass that may leave both alone may leave no old copy."""
        for weight in weights:
            if weight in self._copies:
                self._copies[weight].state = _state(weight)


def in_dtype(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight in a dtype: its copy where one is kept, otherwise cast."""
    copy = _copy(weight, dtype)
    return weight.to(dtype) if copy is None else copy


def multiplied(*weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Weights for PyTorch's own products: their copies where autocast would cast them."""
    kind = weights[0].device.type
    if not torch.is_autocast_enabled(kind):
        return weights
    dtype = torch.get_autocast_dtype(kind)
    copies = (_copy(weight, dtype) for weight in weights)
    return tuple(w if copy is None else copy for w, copy in zip(weights, copies, strict=True))


def _copy(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor | None:
    # A program that is compiled holds for whatever weights have become.
    if torch.compiler.is_compiling() or (kept := _KEPT.get(weight)) is None:
        return None
    copy = kept()
    if copy is None or copy.values.dtype != dtype or copy.state != _state(weight):
        return None
    trains = torch.is_grad_enabled() and weight.requires_grad
    return copy.trained if trains else copy.values
