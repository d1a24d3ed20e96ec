"""The network that a state dict belongs to: its sizes, and every name and shape it must have."""

import re
from collections.abc import Collection
from typing import Any

import torch

from blip_model.blip import Blip
from blip_model.config import PRESETS, BlipConfig
from blip_model.convert.nlvr import is_nlvr
from blip_model.momentum import PARTS
from blip_model.nlvr import BlipNlvr
from blip_model.positions import resize_positions
from blip_model.vqa import BlipVqa

CLS, POSITIONS = "visual_encoder.cls_token", "visual_encoder.pos_embed"
PATCH, WORDS = "visual_encoder.patch_embed.proj.weight", "embeddings.word_embeddings.weight"
INTERMEDIATE = "encoder.layer.0.intermediate.dense.weight"
PLACES = "embeddings.position_embeddings.weight"
HEADS = {"vision_proj", "text_proj", "itm_head"}
BERT_SEP, SMALL_SEP = 102, 2
# That numbers of a network are kept in; others would be rounded or cut on the way to it.
KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def infer_config(weights: dict[str, torch.Tensor], **known: Any) -> BlipConfig:
    """Sizes from shapes; what shapes do not tell comes from the preset of the same widths.

    Head counts are not visible in weights: a width that no preset has is cut into heads of 64.
    A vocabulary that is too small for BERT's ids has [PAD], [CLS], [SEP] first; the last two ids
    are [DEC] and [ENC].

    Args:
        weights: in our names.
        known: fields of the configuration that are known, None for those that are not.

    Raises:
        ValueError: names a tensor that is missing, or a width whose heads are not known.
    """
    text = "text_encoder." if f"text_encoder.{WORDS}" in weights else "text_decoder.bert."
    (*_, cls_width), (*_, patch) = _shape(weights, CLS, 3), _shape(weights, PATCH, 4)
    vocab, text_width = _shape(weights, f"{text}{WORDS}", 2)
    known = {name: value for name, value in known.items() if value is not None}
    vision = _like("vision_width", cls_width)
    sizes = {
        "image_size": _grid(_shape(weights, POSITIONS, 3)[1]) * patch,
        "patch_size": patch,
        "vision_width": cls_width,
        "vision_layers": _layers(weights, "visual_encoder.blocks."),
        "vision_drop_path": vision.vision_drop_path if vision else 0.0,
        "text_width": text_width,
        "text_layers": _layers(weights, f"{text}encoder.layer."),
        "text_intermediate": _shape(weights, f"{text}{INTERMEDIATE}", 2)[0],
        "vocab_size": vocab,
        "max_positions": _shape(weights, f"{text}{PLACES}", 2)[0],
        "bos_token_id": vocab - 2,
        "enc_token_id": vocab - 1,
        "sep_token_id": BERT_SEP if vocab > BERT_SEP + 2 else SMALL_SEP,
    }
    if "vision_proj.weight" in weights:
        sizes["embed_dim"] = _shape(weights, "vision_proj.weight", 2)[0]
    for tower, width in (("vision", cls_width), ("text", text_width)):
        if f"{tower}_heads" not in known:
            sizes[f"{tower}_heads"] = _heads(tower, width)
    return BlipConfig(**{**sizes, **known})


def _shape(weights: dict[str, torch.Tensor], name: str, dimensions: int) -> torch.Size:
    if name not in weights:
        raise ValueError(f"lacks {name}")
    shape = weights[name].shape
    if len(shape) != dimensions:
        raise ValueError(f"{name} is {list(shape)}, which has not {dimensions} dimensions")
    return shape


def _grid(tokens: int) -> int:
    side = round((tokens - 1) ** 0.5)
    if side * side != tokens - 1:
        raise ValueError(f"{POSITIONS} has {tokens} entries: not a square grid and CLS")
    return side


def _layers(weights: dict[str, torch.Tensor], root: str) -> int:
    found = (re.match(rf"{re.escape(root)}(\d+)\.", name) for name in weights)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _like(field: str, width: int) -> BlipConfig | None:
    return next((c for c in PRESETS.values() if getattr(c, field) == width), None)


def _heads(tower: str, width: int) -> int:
    like = _like(f"{tower}_width", width)
    if like is not None:
        return getattr(like, f"{tower}_heads")
    if width % 64:
        raise ValueError(f"{tower}_heads must be given: weights of width {width} do not tell it")
    return width // 64


def answers_questions(names: Collection[str]) -> bool:
    """Whether weights of these names, in our names, are question answering's."""
    roots = {name.partition(".")[0] for name in names}
    return {"text_encoder", "text_decoder"} <= roots and not roots & HEADS


def network_of(names: Collection[str], config: BlipConfig) -> Blip:
    """A fresh network with a place for these weights, in our names; momentum apart."""
    roots = {name.partition(".")[0] for name in names}
    if answers_questions(names):
        return BlipVqa(config)
    if is_nlvr(names):
        return BlipNlvr(config)
    encoder = bool(roots & {"text_encoder", "text_encoder_m"})
    return Blip(config, text_encoder=encoder, text_decoder="text_decoder" in roots)


def _expected_shapes(weights: dict[str, torch.Tensor], network: Blip) -> dict[str, tuple[int, ...]]:
    """Every name and shape that the parts present in `weights` must have.

    Args:
        weights: in our names; they tell which parts there are, not what is in them.
        network: with a place for them.
    """
    roots = {name.partition(".")[0] for name in weights}
    online = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    wanted = roots | {"visual_encoder"}
    # An encoder may come without its heads only beside a decoder (question answering).
    if roots & HEADS or "text_decoder" not in roots:
        wanted |= HEADS
    if is_nlvr(weights):
        wanted |= {"text_encoder"}
    shapes = {name: shape for name, shape in online.items() if name.partition(".")[0] in wanted}
    for part in PARTS:
        if f"{part}_m" in roots:
            here = {n: s for n, s in online.items() if n.startswith(f"{part}.")}
            shapes |= {n.replace(part, f"{part}_m", 1): shape for n, shape in here.items()}
    if "image_queue" in roots:
        size = weights["image_queue"].shape[-1]
        shapes |= dict.fromkeys(("image_queue", "text_queue"), (network.config.embed_dim, size))
        with_ids = "ptr_queue" in roots
        shapes |= {"ptr_queue": (1,), "idx_queue": (1, size)} if with_ids else {"queue_ptr": (1,)}
    return shapes


def check_shapes(weights: dict[str, torch.Tensor], config: BlipConfig) -> None:
    """Refuse weights that are not exactly a network of these sizes.

    Raises:
        ValueError: names what is missing, left over, of another shape or of no usable kind, or two
            that are one tensor of the network and differ.
    """
    with torch.device("meta"):
        network = network_of(weights, config)
    expected = _expected_shapes(weights, network)
    problems = [f"lacks {name}" for name in sorted(expected.keys() - weights.keys())]
    problems += [f"has unexpected {name}" for name in sorted(weights.keys() - expected.keys())]
    problems += [
        f"{name} is {list(weights[name].shape)}, not {list(shape)}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError("; ".join(problems[:3]) + more)
    for name, tensor in weights.items():
        if tensor.is_floating_point() or tensor.is_complex() or "queue" not in name:
            _refuse_other_kinds(name, tensor)
    _refuse_differing_twins(weights, network)


def _refuse_other_kinds(name: str, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or tensor.dtype not in KINDS:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in KINDS)
        kind = f"{tensor.dtype}, {tensor.layout}".replace("torch.", "")
        raise ValueError(f"{name} is {kind}: must be dense, of {kinds}")


def _refuse_differing_twins(weights: dict[str, torch.Tensor], network: Blip) -> None:
    """Of two names of one tensor the network would keep the last one's."""
    first: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        tensor = weights.get(name)
        if tensor is None or tensor.is_meta:
            continue
        twin = first.setdefault(id(parameter), name)
        if twin != name and not torch.equal(tensor, weights[twin]):
            raise ValueError(f"{name} differs from {twin}, to which the network ties it")


def with_image_size(weights: dict[str, torch.Tensor], tokens: int) -> dict[str, torch.Tensor]:
    """Position embeddings, those of the momentum encoder too, for `tokens` patches and CLS."""
    names = [POSITIONS, POSITIONS.replace(".", "_m.", 1)]
    return weights | {n: resize_positions(weights[n], tokens) for n in names if n in weights}
