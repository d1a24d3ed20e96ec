"""Where a norm came from: kept in its place by what reads it, and made into the norm again.

Under autocast a norm that feeds a product is a quarter of what a block's two norms would keep
otherwise, and all that it is made of is there anyway: the stream, a number or two a row, and
weights. Elementwise work: nothing is added up and nothing multiplied by matrices again.
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
    """

    tensors: Tensors
    eps: float
    fused: bool

    @classmethod
    def of(cls, eps: float, fused: bool, *tensors: torch.Tensor) -> "Origin | None":
        """As above, of tensors that may have gradients; None where nothing is kept for them, and
        where `torch.compile` decides what is."""
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return None
        return cls(tuple(tensor.detach() for tensor in tensors), eps, fused)


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
    weight: torch.Tensor, bias: torch.Tensor, *parts: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return F.layer_norm(total, weight.shape, weight, bias, eps).to(dtype)


def _fused_again(*tensors: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
    from kernels.add_norm import triton_kernels

    return triton_kernels.again(*tensors, dtype=dtype)
