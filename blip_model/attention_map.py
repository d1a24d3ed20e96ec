"""Where in a picture matching looks for each token of a text: cross-attention, Grad-CAM weighted.

With A the attention [heads, L, P] of one cross-attention layer and s the logit of "matched",

    map[l, p] = mean over heads of relu(ds / dA[h, l, p]) * A[h, l, p],

for the patches p without the picture's [CLS]: what a token looks at, as far as looking there makes
the text match. It is Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) on attention as ALBEF shows
it (Li et al. 2021, arXiv:2107.07651, section 6.5) and `compute_gradcam` of LAVIS computes it for
BLIP: there in layer 6 of 0 to 11.
"""

import torch

from blip_model.blip import Blip, with_first_token


def middle_layer(model: Blip) -> int:
    """The layer that maps are made of, from 0: the seventh of BLIP's twelve, as in LAVIS.

    Never the last: of what that does only [ENC] reaches the score, so words have no map there.
    """
    count = len(model.text_encoder.encoder.layer)
    return min(count // 2, count - 2)


def attention_maps(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    layer: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of all tokens, and the logits of the same pass.

    Only what follows the layer's attention is differentiated; no parameter gets a gradient.

    Args:
        model: with text encoder and matching head, in eval mode, its products not packed.
        ids: [B, L], [CLS] first; [ENC] is put in its place.
        mask: [B, L].
        image_states: [B, P, vision width].
        layer: from 0; None takes the middle one.

    Returns:
        [B, L, rows, columns], at least 0 and 0 for padding, and logits [B, 2] (unmatched,
        matched), as `Blip.match` gives them.
    """
    text, config = model.text_encoder, model.config
    layers = text.encoder.layer
    layer = middle_layer(model) if layer is None else layer
    chosen, key_mask = layers[layer], mask.bool()
    block = chosen.crossattention
    with torch.no_grad():
        states = text.embeddings(with_first_token(ids, config.enc_token_id))
        for early in layers[:layer]:
            states = early(states, key_mask, image_states, False)
        states = chosen.attention(states, states, key_mask)
        query = block.self.queries(states)
        keys, values = block.self.keys_values(image_states)
        weights = (query * query.shape[-1] ** -0.5 @ keys.transpose(-1, -2)).softmax(-1)
    with torch.enable_grad():
        weights.requires_grad_()
        context = (weights @ values).transpose(1, 2).flatten(2)
        states = chosen.feed_forward(block.output(context, states))
        for late in layers[layer + 1 :]:
            states = late(states, key_mask, image_states, False)
        logits = model.itm_head(states[:, 0]).float()
        (gradient,) = torch.autograd.grad(logits[:, 1].sum(), weights)
    weights = weights.detach()
    seen = (gradient.clamp(min=0) * weights).mean(1)[..., 1:].float() * mask[..., None]
    side = config.image_size // config.patch_size
    return seen.unflatten(2, (side, side)), logits.detach()
