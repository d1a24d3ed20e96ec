"""Matching and captioning in one pass over the shared layers.

Four kinds of rows go through each layer together: positive pairs, wrong texts and captions, which
all look at the picture of their own row, and texts with a wrong picture. Self-attention differs
(matching: bidirectional, the encoder's weights; captions: causal, the decoder's), everything
after it is shared. A picture's keys and values are projected once a layer. Without a decoder the
rows of captions are left out.
"""

import torch
import torch.nn.functional as F

from blip_model.blip import Blip, unit
from blip_model.layers import for_products
from blip_model.looking import Looking, look, pads
from blip_model.med import MedLayer, TextDecoder, ends_of_kinds
from blip_model.packed_caption import caption_loss
from blip_model.packed_text import SharedEmbeddings, first_states, self_context
from blip_model.packing import Packing
from blip_model.recompute import run_layer
from kernels import parted

# Places of the two first tokens among those that `read_texts` adds.
ENC, DEC = 0, 1


def read_texts(
    model: Blip, ids: torch.Tensor, mask: torch.Tensor, capacity: int | None, *, plain: bool
) -> tuple[torch.Tensor, SharedEmbeddings | None]:
    """What the contrast compares of texts, [B, E], and what matching and captioning share of them.

    Args:
        model: with encoder.
        ids: [B, L], [CLS] first.
        mask: [B, L].
        capacity: of tokens, as in `Packing.of`.
        plain: by the definition, which shares nothing.
    """
    if plain:
        return model.text_feature(model.encode_text(ids, mask)), None
    firsts = (model.config.enc_token_id, model.config.bos_token_id)
    packing = Packing.of(mask, capacity)
    embedded = SharedEmbeddings.of(model.text_encoder, ids, packing, firsts)
    return unit(model.text_proj(first_states(embedded))), embedded


def matching_and_captioning(
    model: Blip,
    embedded: SharedEmbeddings,
    ids: torch.Tensor,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    text_of_image: torch.Tensor,
    *,
    label_smoothing: float,
    group_size: int,
    drawn_capacity: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """loss_itm and loss_lm of `objectives.itm.matching` and `objectives.lm`, with less work.

    Args:
        model: with encoder, decoder and matching head.
        embedded: of the texts, from `read_texts`.
        ids: [B, L], [CLS] first.
        image_states: [B, P, vision width].
        image_of_text: [B] the wrong picture of each text.
        text_of_image: [B] the wrong text of each picture.
        label_smoothing: of captioning.
        group_size: rows whose tokens are averaged together.
        drawn_capacity: places for the tokens of the wrong texts, where those of all texts are
            given; None has room for any. Where they are too few, loss_itm is NaN.
    """
    encoded, captions, fits = _shared_layers(
        model,
        embedded,
        image_states,
        image_of_text,
        text_of_image,
        model.text_decoder,
        drawn_capacity,
    )
    loss_lm = caption_loss(
        model,
        captions,
        ids,
        embedded.packing,
        label_smoothing=label_smoothing,
        group_size=group_size,
    )
    return _matching(model, encoded, fits), loss_lm


def matching_alone(
    model: Blip,
    embedded: SharedEmbeddings,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    text_of_image: torch.Tensor,
    drawn_capacity: int | None = None,
) -> torch.Tensor:
    """loss_itm of `objectives.itm.matching` with less work; arguments as above."""
    encoded, _, fits = _shared_layers(
        model, embedded, image_states, image_of_text, text_of_image, None, drawn_capacity
    )
    return _matching(model, encoded, fits)


def _shared_layers(
    model: Blip,
    embedded: SharedEmbeddings,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    text_of_image: torch.Tensor,
    decoder: TextDecoder | None,
    drawn_capacity: int | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """First states of matching's rows [3B, D], packed states of captions [T, D], T may be 0, and
    whether the wrong texts fit, 0-dim bool, or None where they always do."""
    own, text = embedded.packing, model.text_encoder
    mask, count, device = own.mask, len(own.mask), own.mask.device
    image_states = for_products(image_states)
    rows, room, fits = torch.arange(count, device=device), None, None
    if own.spots is not None:
        # How many tokens the drawn texts have the device alone knows; all may be the longest.
        room = drawn_capacity or mask.numel()
    if room is not None and room < mask.numel():
        # In their place come the right ones, which do fit, and the loss says so.
        fits = own.lengths[text_of_image].sum() <= room
        text_of_image = torch.where(fits, text_of_image, rows)
    wrong = Packing.of(mask[text_of_image], room)
    # Rows of the encoder: positives, wrong texts, texts with a wrong picture.
    encoder_packing = Packing.joined([own, wrong, own])
    positives = embedded.places(rows, own, ENC)
    places = [positives, embedded.places(text_of_image, wrong, ENC), positives]
    causal_layers, told = [None] * len(text.encoder.layer), ()
    if decoder is not None:
        places.append(embedded.places(rows, own, DEC))
        causal_layers, told = decoder.bert.encoder.layer, (own,)
    states = embedded.read(torch.cat(places))
    sizes = [len(encoder_packing), len(states) - len(encoder_packing)]
    # Of the last layer's states those that are read: matching's first ones, and all of captions.
    left = torch.arange(sizes[0], len(states), device=device)
    left = torch.cat([encoder_packing.first, left])
    padded = pads(text.encoder.layer[0].crossattention, image_states)
    firsts = (Packing.singles(count, device),) * 3
    looking = Looking.of((own, wrong, own, *told), image_of_text, padded=padded)
    looking_last = Looking.of((*firsts, *told), image_of_text, padded=padded)

    def run(
        layer: MedLayer,
        decoder_layer: MedLayer | None,
        states: torch.Tensor,
        image_states: torch.Tensor,
        last: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        encoded, captions = parted(for_products(states), sizes)
        blocks = [layer.attention]
        contexts = [self_context(layer.attention, encoded, encoder_packing, first_only=last)]
        if decoder_layer is not None:
            blocks.append(decoder_layer.attention)
            contexts.append(self_context(decoder_layer.attention, captions, own, causal=True))
        asking = states.index_select(0, left) if last else states
        states = ends_of_kinds([block.output for block in blocks], contexts, asking)
        seen = looking_last if last else looking
        states, image_states = look(layer.crossattention, states, image_states, seen)
        return layer.feed_forward(states), image_states

    layers = zip(text.encoder.layer, causal_layers, strict=True)
    for number, pair in enumerate(layers, 1):
        inputs = (*pair, states, image_states, number == len(text.encoder.layer))
        states, image_states = run_layer(run, *inputs, recompute=text.recompute)
    encoded, captions = parted(states, [3 * count, sizes[1]])
    return encoded, captions, fits


def _matching(model: Blip, encoded: torch.Tensor, fits: torch.Tensor | None) -> torch.Tensor:
    """Cross-entropy of [3B, D] first states, of which the first B match; NaN where not all fit."""
    logits = model.itm_head(encoded).float()
    labels = (torch.arange(len(encoded), device=encoded.device) < len(encoded) // 3).long()
    loss = F.cross_entropy(logits, labels)
    return loss if fits is None else torch.where(fits, loss, torch.nan)
