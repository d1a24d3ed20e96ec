"""State-dict names of transformers' BLIP and ours: renames only, both ways."""

import torch

from blip_model.convert.nlvr import is_nlvr
from blip_model.convert.original import TIED_HEAD, from_original
from blip_model.momentum import PARTS

# (theirs, ours)
VISION = (
    ("vision_model.embeddings.class_embedding", "visual_encoder.cls_token"),
    ("vision_model.embeddings.position_embedding", "visual_encoder.pos_embed"),
    ("vision_model.embeddings.patch_embedding.", "visual_encoder.patch_embed.proj."),
    ("vision_model.post_layernorm.", "visual_encoder.norm."),
)
BLOCKS = ("vision_model.encoder.layers.", "visual_encoder.blocks.")
BLOCK = (
    ("self_attn.qkv.", "attn.qkv."),
    ("self_attn.projection.", "attn.proj."),
    ("layer_norm1.", "norm1."),
    ("layer_norm2.", "norm2."),
    ("mlp.", "mlp."),
)
TRAINING_ONLY = (
    *(f"{part}_m." for part in PARTS),
    *("image_queue", "text_queue", "idx_queue", "queue_ptr", "ptr_queue", "temp"),
)
DECODER, LOOKS = "text_decoder.bert", "encoder.layer.0.crossattention.self.key.weight"
CAPTIONER, RETRIEVER, ANSWERER = (
    "BlipForConditionalGeneration",
    "BlipForImageTextRetrieval",
    "BlipForQuestionAnswering",
)


def from_huggingface(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers' names -> ours; position ids are dropped, tied names filled in."""
    return from_original({_rename(name, 0): tensor for name, tensor in weights.items()})


def to_huggingface(
    weights: dict[str, torch.Tensor],
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Our names -> transformers', by the classes that hold them.

    A pretrained network fills two classes: a captioner and a retriever. The LM head's tied names
    are left out, as transformers leaves them out.

    Returns:
        Weights by class name, and what no class has a place for, in our names: momentum encoders,
        queues and temperature.

    Raises:
        ValueError: no class fits.
    """
    left = {name: tensor for name, tensor in weights.items() if name.startswith(TRAINING_ONLY)}
    kept = {n: t for n, t in weights.items() if n not in left and n not in TIED_HEAD}
    roots = {name.partition(".")[0] for name in kept}
    heads = {"vision_proj", "text_proj", "itm_head"}
    classes = {}
    if is_nlvr(weights):
        raise ValueError("transformers has no BLIP that looks at two pictures (NLVR2)")
    if roots == {"visual_encoder", "text_encoder", "text_decoder"}:
        if len({kept[f"{side}.{LOOKS}"].shape for side in ("text_encoder", DECODER)}) > 1:
            raise ValueError("transformers' answerer needs pictures as wide as texts")
        classes[ANSWERER] = roots
    elif roots == {"visual_encoder", "text_decoder"}:
        classes[CAPTIONER] = roots
    elif roots == {"visual_encoder", "text_encoder"} | heads:
        classes[RETRIEVER] = roots
    elif roots == {"visual_encoder", "text_encoder", "text_decoder"} | heads:
        classes = {CAPTIONER: {"visual_encoder", "text_decoder"}}
        classes[RETRIEVER] = roots - {"text_decoder"}
    else:
        raise ValueError(f"transformers has no BLIP class of {', '.join(sorted(roots))}")
    split = {
        kind: {_rename(n, 1): t for n, t in kept.items() if n.partition(".")[0] in roots}
        for kind, roots in classes.items()
    }
    return split, left


def _rename(name: str, source: int) -> str:
    """Translate a name from column `source` of the tables to the other one."""
    for pair in VISION:
        if name.startswith(pair[source]):
            return pair[1 - source] + name.removeprefix(pair[source])
    if name.startswith(BLOCKS[source]):
        number, _, rest = name.removeprefix(BLOCKS[source]).partition(".")
        for pair in BLOCK:
            if rest.startswith(pair[source]):
                rest = pair[1 - source] + rest.removeprefix(pair[source])
                break
        return f"{BLOCKS[1 - source]}{number}.{rest}"
    return name
