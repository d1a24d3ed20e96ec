"""Weights of matrix products kept in the type that autocast multiplies in."""

import torch
from torch import nn

from blip_model.blip import Blip


def store_products(model: Blip, dtype: torch.dtype) -> None:
    """Cast the weights that only products read, for good; autocast computes the same bits.

    Autocast casts every weight anew in each of its contexts, which while captions are decoded costs
    more than the products. Embeddings, norms and the temperature stay float32; the LM head, tied to
    the word embeddings, gets a matrix of its own. For inference: nothing can be trained afterwards.

    Args:
        model: changed in place.
        dtype: what autocast is going to multiply in.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for name, parameter in module.named_parameters(recurse=False):
                cast = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
                setattr(module, name, cast)
