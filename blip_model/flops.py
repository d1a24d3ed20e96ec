"""Work of one pretraining step, for the MFU: multiply-adds count two, backward twice forward."""

from blip_model.config import BlipConfig


def pretraining_flops(config: BlipConfig, tokens: float) -> float:
    """FLOP a pair needs, forward and backward, each image projected once and no padding.

    The count of the exact step: image keys and values of the cross-attentions once a picture,
    only the CLS row where only it is read. Similarities are left out.

    Args:
        config: sizes.
        tokens: mean caption length, special tokens included.
    """
    d, dv, n = config.text_width, config.vision_width, config.image_tokens
    layers, inner = config.text_layers, config.text_intermediate
    block = n * (24 * dv * dv + 4 * n * dv)
    cls_block = 4 * n * dv * dv + 20 * dv * dv + 4 * n * dv
    patches = 2 * (n - 1) * 3 * config.patch_size**2 * dv
    vision = config.vision_layers * block + patches
    vision_m = (config.vision_layers - 1) * block + cls_block + patches
    self_attention = 8 * d * d + 4 * tokens * d
    feed_forward = 4 * d * inner
    cross = 4 * d * d + 4 * n * d
    unimodal = layers * tokens * (self_attention + feed_forward)
    fused = layers * tokens * (self_attention + feed_forward + cross)
    keys_values = layers * n * 4 * d * dv
    head = tokens * (2 * d * d + 2 * d * config.vocab_size)
    return 3 * (vision + unimodal + 4 * fused + keys_values + head) + vision_m + unimodal
