"""Single-tower weights as a start: a ViT by timm's or DeiT's names, a BERT by Hugging Face's."""

import torch

from blip_model.convert.positions import resize_positions

DROPPED_VISION = ("head.", "head_dist.", "dist_token", "fc_norm.", "pre_logits.")
DROPPED_TEXT = ("cls.", "pooler.", "embeddings.token_type_embeddings.", "embeddings.position_ids")


def vision_weights(
    weights: dict[str, torch.Tensor], position_shape: torch.Size
) -> dict[str, torch.Tensor]:
    """timm or DeiT names -> `visual_encoder.*`; classifier heads are dropped.

    Args:
        weights: as loaded.
        position_shape: [1, P, D] of the network, to which position embeddings are resized.
    """
    kept = {k: v for k, v in weights.items() if not k.startswith(DROPPED_VISION)}
    if "pos_embed" in kept:
        kept["pos_embed"] = resize_positions(kept["pos_embed"], position_shape[1])
    return {f"visual_encoder.{name}": tensor for name, tensor in kept.items()}


def text_weights(
    weights: dict[str, torch.Tensor], vocab_size: int, max_positions: int
) -> dict[str, torch.Tensor]:
    """BERT names -> the MED's text transformer, without a root.

    Token types are not used by the MED and are dropped, as in the original. New words (BLIP's two
    tokens) start at the mean of the others; a longer position table is cut.

    Args:
        weights: with or without the root `bert.`, old (gamma, beta) or new norm names.
        vocab_size: V of the network.
        max_positions: of the network.
    """
    kept = {}
    for name, tensor in weights.items():
        name = name.removeprefix("bert.").replace("gamma", "weight").replace("beta", "bias")
        if not name.startswith(DROPPED_TEXT):
            kept[name] = tensor
    words = kept["embeddings.word_embeddings.weight"]
    if len(words) < vocab_size:
        fresh = words.mean(0, keepdim=True).expand(vocab_size - len(words), -1)
        kept["embeddings.word_embeddings.weight"] = torch.cat([words, fresh])
    positions = kept["embeddings.position_embeddings.weight"]
    kept["embeddings.position_embeddings.weight"] = positions[:max_positions]
    return kept
