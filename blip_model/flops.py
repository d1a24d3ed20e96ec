"""Work of one training step, for the MFU: multiply-adds count two, backward twice forward.

FLOP a pair needs, each picture projected once and no padding. The count of the exact step: image
keys and values of the cross-attentions once a picture, only the CLS row where only it is read.
Similarities are left out.
"""

from dataclasses import dataclass

from blip_model.config import BlipConfig
from blip_model.nlvr import MERGED_FROM


@dataclass(frozen=True)
class Forward:
    """FLOP of one pair's forward passes.

    Attributes:
        vision: the image encoder.
        vision_first: the same where only its CLS state is read.
        unimodal: a text without its picture.
        fused: a text that looks at a picture.
        keys_values: the picture's keys and values for all cross-attentions.
        cross: what a text's tokens do in all of them; it is in `fused`.
        head: the LM head for every token.
    """

    vision: float
    vision_first: float
    unimodal: float
    fused: float
    keys_values: float
    cross: float
    head: float


def forward_flops(config: BlipConfig, tokens: float, frames: int = 1) -> Forward:
    """Work of each kind of pass.

    Args:
        config: sizes.
        tokens: mean text length, special tokens included.
        frames: of a video, each a picture of its own that texts look at together.
    """
    d, dv, n = config.text_width, config.vision_width, config.image_tokens
    layers, inner = config.text_layers, config.text_intermediate
    block = n * (24 * dv * dv + 4 * n * dv)
    cls_block = 4 * n * dv * dv + 20 * dv * dv + 4 * n * dv
    patches = 2 * (n - 1) * 3 * config.patch_size**2 * dv
    vision = frames * (config.vision_layers * block + patches)
    vision_m = frames * ((config.vision_layers - 1) * block + cls_block + patches)
    n *= frames
    self_attention = 8 * d * d + 4 * tokens * d
    feed_forward = 4 * d * inner
    cross = layers * tokens * (4 * d * d + 4 * n * d)
    unimodal = layers * tokens * (self_attention + feed_forward)
    keys_values = layers * n * 4 * d * dv
    head = tokens * (2 * d * d + 2 * d * config.vocab_size)
    return Forward(vision, vision_m, unimodal, unimodal + cross, keys_values, cross, head)


def pretraining_flops(config: BlipConfig, tokens: float) -> float:
    """FLOP a pair: contrast with momentum features, matching three times, captioning."""
    f = forward_flops(config, tokens)
    trained = f.vision + f.unimodal + 4 * f.fused + f.keys_values + f.head
    return 3 * trained + f.vision_first + f.unimodal


def caption_flops(config: BlipConfig, tokens: float, prompt: int) -> float:
    """FLOP a pair of caption fine-tuning.

    Args:
        config: sizes.
        tokens: mean text length, prompt and special tokens included.
        prompt: tokens of it that are not scored.
    """
    f = forward_flops(config, tokens)
    scored = max(0.0, tokens - prompt) / tokens
    return 3 * (f.vision + f.fused + f.keys_values + scored * f.head)


def retrieval_flops(config: BlipConfig, tokens: float, frames: int = 1) -> float:
    """FLOP a pair of retrieval fine-tuning: pretraining's without captioning."""
    f = forward_flops(config, tokens, frames)
    trained = f.vision + f.unimodal + 3 * f.fused + f.keys_values
    return 3 * trained + f.vision_first + f.unimodal


def contrast_flops(config: BlipConfig, tokens: float) -> float:
    """FLOP a pair of contrast alone, without momentum encoders."""
    f = forward_flops(config, tokens)
    return 3 * (f.vision_first + f.unimodal)


def nlvr_flops(config: BlipConfig, tokens: float) -> float:
    """FLOP a sentence of NLVR2 with its two pictures."""
    f = forward_flops(config, tokens)
    merged = max(0, config.text_layers - MERGED_FROM) * tokens * 4 * config.text_width**2
    return 3 * (2 * (f.vision + f.keys_values + f.cross) + f.unimodal + merged)


def vqa_flops(config: BlipConfig, tokens: float, frames: int = 1) -> float:
    """FLOP a question with its picture. Answers are left out, a percent of it at 480 pixels."""
    f = forward_flops(config, tokens, frames)
    return 3 * (f.vision + f.fused + f.keys_values)


def visdial_flops(config: BlipConfig, tokens: float, answers: int) -> float:
    """FLOP a round of a dialogue with its picture.

    Args:
        config: sizes.
        tokens: mean length of the dialogue; an answer's few are left out.
        answers: that the round is read with.
    """
    f = forward_flops(config, tokens)
    return 3 * (f.vision + answers * f.fused + f.keys_values)
