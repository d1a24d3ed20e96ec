"""Where a norm came from: kept in its place by the product that reads it, which makes it again.

Under autocast the norms that feed products are a seventh of what the blocks of a picture would
keep, and all that they are made of is there anyway: the stream, two numbers a row, and weights.
Elementwise work: no row is added up and no matrix multiplied again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Origin:
    """What a norm is made of.

    Attributes:
        tensors: without gradient: weight and bias, each row's mean and 1 / deviation where `fused`,
            and the sum that was normalised or, one after the other, what was added.
        eps: added to the variance.
        fused: made by the Triton kernel; by PyTorch otherwise.
        read_once: by a single product.
    """

    tensors: Tensors
    eps: float
    fused: bool
    read_once: bool


def told(
    norm: torch.Tensor, eps: float, *tensors: torch.Tensor, fused: bool, read_once: bool
) -> torch.Tensor:
    """A norm that says what it is made of; arguments as in `Origin`, with or without gradients.

    What is computed of the norm does not say it, and is kept itself. Nothing is said where the
    norm's own backward pass does not keep these tensors, as there is none or `torch.compile`
    decides what it keeps.
    """
    if norm.requires_grad and not torch.compiler.is_compiling():
        origin = Origin(tuple(tensor.detach() for tensor in tensors), eps, fused, read_once)
        norm.origin = (origin, norm._version)
    return norm


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


def keeping(x: torch.Tensor, origin: Origin | None) -> tuple[Tensors, Callable[..., torch.Tensor]]:
    """What to keep of an input for the backward pass, and what makes the input of it there.

    Args:
        x: the input, in the dtype that it is read in.
        origin: of it, or None where it has to be kept itself.
    """
    if origin is None:
        return (x,), _itself
    again = _fused_again if origin.fused else _again
    return origin.tensors, partial(again, eps=origin.eps, dtype=x.dtype)


def _itself(x: torch.Tensor) -> torch.Tensor:
    return x


def _again(
    weight: torch.Tensor, bias: torch.Tensor, total: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    return F.layer_norm(total, weight.shape, weight, bias, eps).to(dtype)


def _fused_again(*tensors: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    from kernels.add_norm import triton_kernels

    return triton_kernels.again(*tensors, dtype=dtype)
