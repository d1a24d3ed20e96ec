"""Weights of matrix products kept as they are multiplied with: in autocast's type, packed."""

import torch
from torch import nn

from blip_model.blip import Blip
from blip_model.layers import MAPS
from blip_model.packed_layers import PACKED, TurnedByHead
from kernels.backend import choose
from kernels.packed_linear import packing_problem

# Whose weights decoding reads head by head, see `kernels.attention_absorbed`.
KEYS, VALUES = "crossattention.self.key", "crossattention.self.value"


def store_products(model: Blip, dtype: torch.dtype, *, backend: str = "auto") -> None:
    """Cast the weights that only products read, for good, and pack them where that is faster.

    Autocast casts every weight anew in each of its contexts, and a CPU lays it out anew in every
    product, which while captions are decoded costs more than the products. Cast weights compute the
    bits that autocast does; packed ones do not round between a product and its GELU. Embeddings,
    norms and the temperature stay float32; the LM head, tied to the word embeddings, gets a matrix
    of its own. For inference: nothing trains afterwards, and packed weights do not move.

    Args:
        model: changed in place, on the device where it is used.
        dtype: what autocast is going to multiply in.
        backend: `onednn` (packed, on a CPU), `reference` (cast alone) or `auto`.

    Raises:
        ValueError: an unknown backend.
        RuntimeError: a forced backend that cannot run here.
    """
    probe = model.visual_encoder.cls_token.detach().to(dtype)
    problems = {"onednn": packing_problem(probe), "reference": None}
    chosen = choose("packed_linear", backend, problems, probe)
    model.requires_grad_(False)
    # Without the maps themselves, so that those that are replaced are freed one by one.
    parents = [pair for pair in model.named_modules() if not isinstance(pair[1], MAPS)]
    for path, parent in parents:
        for name, module in list(parent.named_children()):
            if isinstance(module, MAPS):
                _cast(module, dtype)
                whole = f"{path}.{name}"
                if chosen != "onednn" or whole.endswith(KEYS):
                    continue
                if whole.endswith(VALUES):
                    setattr(parent, name, TurnedByHead(module, parent.heads))
                elif type(module) in PACKED:
                    setattr(parent, name, PACKED[type(module)](module))


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    for name, parameter in module.named_parameters(recurse=False):
        cast = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
        setattr(module, name, cast)
