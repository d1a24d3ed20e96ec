"""A pretrained MED as the start of NLVR2's network, which looks at two pictures."""

import re
from collections.abc import Iterable

import torch

HEAD, MERGING = "cls_head.", ".merge_layer."
CROSS = re.compile(r"(text_encoder\..+\.crossattention\.(?:self|output\.dense))(\..+)")


def is_nlvr(names: Iterable[str]) -> bool:
    """Whether weights are those of NLVR2's network."""
    return any(name.startswith(HEAD) for name in names)


def with_two_attentions(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A MED's text encoder with each cross-attention twice, as the original starts.

    Args:
        weights: in our names; other parts are left as they are.
    """
    both = {}
    for name, tensor in weights.items():
        found = CROSS.fullmatch(name)
        twice = [f"{found[1]}{number}{found[2]}" for number in (0, 1)] if found else [name]
        both |= dict.fromkeys(twice, tensor)
    return both


def is_fresh(name: str) -> bool:
    """Whether a MED has nothing for this part: merging maps and the head are drawn."""
    return name.startswith(HEAD) or MERGING in name
