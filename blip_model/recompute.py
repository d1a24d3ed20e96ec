"""Layers that keep their input alone for the backward pass and run again there.

Also called activation checkpointing (Chen et al. 2016, arXiv:1604.06174): one more forward pass
of those layers for the memory of what is inside them.
"""

from collections.abc import Callable
from typing import Any

from torch import is_grad_enabled, is_tensor
from torch.utils.checkpoint import checkpoint

from kernels import forget, with_same_seeds


def run_layer(layer: Callable[..., Any], *inputs: Any, recompute: bool) -> Any:
    """layer(*inputs), with the same random draws where it runs again.

    Args:
        layer: a module, or a function of tensors that closes over the rest.
        recompute: keep its inputs alone.
    """
    if recompute and is_grad_enabled():
        for tensor in filter(is_tensor, inputs):
            # They are kept as they are; all else that they name lies before the layer.
            forget(tensor)
        return checkpoint(with_same_seeds(layer), *inputs, use_reentrant=False)
    return layer(*inputs)
