"""State-dict names of transformers' BLIP and ours: renames only, both ways."""

import re

import torch

VISION = (
    ("embeddings.class_embedding", "cls_token"),
    ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding.", "patch_embed.proj."),
    ("post_layernorm.", "norm."),
    ("encoder.layers.", "blocks."),
)
BLOCK = (
    ("self_attn.projection.", "attn.proj."),
    ("self_attn.qkv.", "attn.qkv."),
    ("layer_norm1.", "norm1."),
    ("layer_norm2.", "norm2."),
)


def from_huggingface(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' names -> ours; position ids (derivable) are dropped."""
    converted = {}
    for name, tensor in weights.items():
        if name.endswith("embeddings.position_ids"):
            continue
        if name.startswith("vision_model."):
            name = name.removeprefix("vision_model.")
            for theirs, ours in (*VISION, *BLOCK):
                name = name.replace(theirs, ours)
            name = f"visual_encoder.{name}"
        converted[name] = tensor
    return converted


def to_huggingface(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names -> transformers'; momentum copies, queues and the temperature stay behind."""
    left = re.compile(r"^(\w+_m\.|image_queue|text_queue|idx_queue|queue_ptr|ptr_queue|temp$)")
    converted = {}
    for name, tensor in weights.items():
        if left.match(name):
            continue
        if name.startswith("visual_encoder."):
            name = name.removeprefix("visual_encoder.")
            for theirs, ours in (*VISION, *BLOCK):
                if name.startswith(ours) or (name.startswith("blocks.") and f".{ours}" in name):
                    name = name.replace(ours, theirs)
            name = re.sub(r"^blocks\.", "encoder.layers.", name)
            name = f"vision_model.{name}"
        converted[name] = tensor
    return converted
