"""Single-tower weights as a start: a ViT by timm's or DeiT's names, a BERT by Hugging Face's."""

import re
from dataclasses import dataclass

import torch

from blip_model.positions import resize_positions

CLASSIFIER = ("head.", "head_dist.", "fc_norm.", "pre_logits.")
# The masked-word head is BERT's; its transform and bias start the decoder's, as in the original.
HEAD = ("cls.predictions.bias", "cls.predictions.transform.")
LAYER = re.compile(r"encoder\.layer\.(\d+)\.")


@dataclass(frozen=True)
class Tower:
    """Weights for one side of the network.

    Attributes:
        weights: by name; of a ViT below `visual_encoder`, of a BERT `embeddings.*`, `encoder.*`
            and `cls.predictions.*`.
        dropped: names of what the network has no place for.
    """

    weights: dict[str, torch.Tensor]
    dropped: tuple[str, ...]


def vision_tower(weights: dict[str, torch.Tensor], tokens: int) -> Tower:
    """timm's or DeiT's names -> ours; classifiers are dropped, positions resized.

    Args:
        weights: of a ViT.
        tokens: patches and CLS of the network, to which position embeddings are resized.

    Raises:
        ValueError: position embeddings that are no square grid.
    """
    kept, dropped = {}, []
    for name, tensor in weights.items():
        if name == "dist_token" or name.startswith(CLASSIFIER):
            dropped.append(name)
        else:
            kept[name] = tensor
    if "pos_embed" in kept:
        positions = kept["pos_embed"]
        if "dist_token" in weights:
            positions = torch.cat([positions[:, :1], positions[:, 2:]], 1)
        kept["pos_embed"] = resize_positions(positions, tokens)
    return Tower(kept, tuple(dropped))


def text_tower(weights: dict[str, torch.Tensor], layers: int) -> Tower:
    """BERT's names -> the MED's; pooler, token types and the next-sentence head are dropped.

    A BERT that is a whole number of times deeper gives every n-th of its layers, as DistilBERT
    starts from BERT (Sanh et al. 2019, arXiv:1910.01108); the others are dropped.

    Args:
        weights: with or without the root `bert.`, old (gamma, beta) or new names of the norms.
        layers: of the network.
    """
    names = {name: _current(name) for name in weights}
    numbers = [int(found[1]) for found in map(LAYER.match, names.values()) if found]
    depth = max(numbers, default=-1) + 1
    step = max(1, depth // layers) if depth % layers == 0 else 1
    kept, dropped = {}, []
    for name, tensor in weights.items():
        ours = names[name]
        body = ours.startswith(("embeddings.", "encoder."))
        unused = ours.startswith("embeddings.token_type") or ours.endswith("position_ids")
        layer = LAYER.match(ours)
        number, rest = divmod(int(layer[1]), step) if layer else (0, 0)
        if rest or not ((body and not unused) or ours.startswith(HEAD)):
            dropped.append(name)
        else:
            kept[LAYER.sub(f"encoder.layer.{number}.", ours)] = tensor
    return Tower(kept, tuple(dropped))


def _current(name: str) -> str:
    """A BERT's name as today's files have it."""
    name = name.removeprefix("bert.")
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if name.endswith(old):
            name = name.removesuffix(old) + new
    return name


def fit_rows(fresh: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A table of the network with its first rows replaced; rows beyond the network's are cut.

    The words that BLIP adds stay as they were drawn, as in the original.
    """
    if rows.shape[1:] != fresh.shape[1:]:
        return rows
    fitted = fresh.clone()
    fitted[: len(rows)] = rows[: len(fresh)]
    return fitted
