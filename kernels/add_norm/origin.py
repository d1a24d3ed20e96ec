"""Where a norm came from: kept in its place by the product that reads it, which makes it again.

Under autocast the norms that feed products are a seventh of what the blocks of a picture would
keep, and all that they are made of is there anyway: the stream, two numbers a row, and weights.
Elementwise work: no row is added up and no matrix multiplied again.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F

Tensors = tuple[torch.Tensor, ...]
Again = Callable[..., torch.Tensor]
# Weight and bias; after them come tensors of a norm's rows.
WEIGHTS = 2


@dataclass(frozen=True)
class Origin:
    """What a norm is made of.

    Attributes:
        tensors: without gradient.
        again: what makes the norm of them, in a dtype.
        read_once: by a single product.
        is_joined: of several norms' rows, whose tensors come one norm after the other.
    """

    tensors: Tensors
    again: Again
    read_once: bool
    is_joined: bool = False

    def rows(self, size: int, last: int) -> "Origin | None":
        """Of so many rows before the last of a norm [T, D]; None where several are joined."""
        if self.is_joined:
            return None
        weights, rows = self.tensors[:WEIGHTS], self.tensors[WEIGHTS:]
        return replace(self, tensors=(*weights, *(t[last - size : last] for t in rows)))

    @classmethod
    def joined(cls, parts: "Iterable[Origin]") -> "Origin":
        """Of the rows of several norms, which a single product reads."""
        parts = list(parts)
        again = partial(_joined_again, [(part.again, len(part.tensors)) for part in parts])
        tensors = tuple(t for part in parts for t in part.tensors)
        return cls(tensors, again, read_once=True, is_joined=True)


def told(norm: torch.Tensor, again: Again, *tensors: torch.Tensor, read_once: bool) -> torch.Tensor:
    """A norm that says what it is made of; arguments as in `Origin`, with or without gradients.

    What is computed of the norm does not say it, and is kept itself. Nothing is said where the
    norm's own backward pass does not keep these tensors, as there is none or `torch.compile`
    decides what it keeps.
    """
    if norm.requires_grad and not torch.compiler.is_compiling():
        tell(norm, Origin(tuple(tensor.detach() for tensor in tensors), again, read_once))
    return norm


def tell(norm: torch.Tensor, origin: Origin | None) -> None:
    """Have a norm say what it is made of, if that is known."""
    if origin is not None:
        norm.origin = (origin, norm._version)


def origin_of(x: torch.Tensor, *, read_once: bool = False) -> Origin | None:
    """What a tensor says that it is made of, if it has not been changed since.

    Args:
        x: any tensor.
        read_once: ask for those alone that a single product reads. What several read is kept once,
            and would be made again for each.
    """
    origin, version = getattr(x, "origin", (None, 0))
    holds = origin is not None and x._version == version
    return origin if holds and origin.read_once >= read_once else None


def forget(x: torch.Tensor) -> None:
    """From now on the tensor neither says what it is made of nor what is written beside it."""
    if not torch.compiler.is_compiling():
        for name in ("origin", "low"):
            x.__dict__.pop(name, None)


def keeping(x: torch.Tensor, origin: Origin | None) -> tuple[Tensors, Again]:
    """What to keep of an input for the backward pass, and what makes the input of it there.

    Args:
        x: the input, in the dtype that it is read in.
        origin: of it, or None where it has to be kept itself.
    """
    if origin is None:
        return (x,), _itself
    return origin.tensors, partial(origin.again, dtype=x.dtype)


def by_torch(
    weight: torch.Tensor, bias: torch.Tensor, total: torch.Tensor, *, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """The norm of a sum, as PyTorch's own operation made it."""
    return F.layer_norm(total, weight.shape, weight, bias, eps).to(dtype)


def by_triton(*tensors: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As `add_norm`'s kernel wrote it, of weight, bias, each row's mean and 1 / deviation, and the
    sum or, one after the other, what was added."""
    from kernels.add_norm import triton_kernels

    return triton_kernels.again(*tensors, dtype=dtype)


def _joined_again(
    parts: list[tuple[Again, int]], *tensors: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    left = iter(tensors)
    return torch.cat([again(*islice(left, count), dtype=dtype) for again, count in parts])


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x
