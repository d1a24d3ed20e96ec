"""Matching and captioning in one pass over the shared layers.

Four kinds of rows go through each layer together: positive pairs, wrong texts and captions, which
all look at the picture of their own row, and texts with a wrong picture. Self-attention differs
(matching: bidirectional, the encoder's weights; captions: causal, the decoder's), everything
after it is shared. A picture's keys and values are projected once a layer. Without a decoder the
rows of captions are left out.
"""

import torch
import torch.nn.functional as F

from blip_model.blip import Blip, with_first_token
from blip_model.med import MedAttention, TextDecoder
from blip_model.packed_text import embed, heads, self_attend
from blip_model.packing import Packing
from kernels import attention


def matching_and_captioning(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    text_of_image: torch.Tensor,
    *,
    label_smoothing: float,
    group_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """loss_itm and loss_lm of `objectives.itm.matching` and `objectives.lm`, with less work.

    Args:
        model: with encoder, decoder and matching head.
        ids: [B, L], [CLS] first.
        mask: [B, L].
        image_states: [B, P, vision width].
        image_of_text: [B] the wrong picture of each text.
        text_of_image: [B] the wrong text of each picture.
        label_smoothing: of captioning.
        group_size: rows whose tokens are averaged together.
    """
    own = Packing.of(mask)
    encoded, captions = _shared_layers(
        model, ids, own, image_states, image_of_text, text_of_image, model.text_decoder
    )
    loss_itm = _matching(model, encoded)
    return loss_itm, _captioning(model, captions, ids, own, label_smoothing, group_size)


def matching_alone(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    text_of_image: torch.Tensor,
) -> torch.Tensor:
    """loss_itm of `objectives.itm.matching` with less work; arguments as above."""
    own = Packing.of(mask)
    encoded, _ = _shared_layers(model, ids, own, image_states, image_of_text, text_of_image, None)
    return _matching(model, encoded)


def _shared_layers(
    model: Blip,
    ids: torch.Tensor,
    own: Packing,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    text_of_image: torch.Tensor,
    decoder: TextDecoder | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """First states of matching's rows [3B, D] and packed states of captions [T, D], T may be 0."""
    config, count, mask = model.config, len(ids), own.mask
    wrong = Packing.of(mask[text_of_image])
    matched_ids = with_first_token(ids, config.enc_token_id)
    # Rows of the encoder: positives, wrong texts, texts with a wrong picture.
    encoder_packing = Packing.of(torch.cat([mask, mask[text_of_image], mask]))
    encoder_ids = torch.cat([matched_ids, matched_ids[text_of_image], matched_ids])
    text = model.text_encoder
    encoded = embed(text, encoder_ids, encoder_packing)
    captions, causal_layers, told = encoded[:0], [None] * len(text.encoder.layer), ()
    if decoder is not None:
        captions = embed(text, with_first_token(ids, config.bos_token_id), own)
        causal_layers, told = decoder.bert.encoder.layer, (own,)
    packings, sizes = (own, wrong, own), (len(own), len(wrong), len(own))
    layers = zip(text.encoder.layer, causal_layers, strict=True)
    for number, (layer, decoder_layer) in enumerate(layers, 1):
        if last := number == len(text.encoder.layer):
            packings = (Packing.singles(count, ids.device),) * 3
            sizes = (count, count, count)
        encoded = self_attend(layer.attention, encoded, encoder_packing, first_only=last)
        if decoder_layer is not None:
            captions = self_attend(decoder_layer.attention, captions, own, causal=True)
        states = torch.cat([encoded, captions])
        states = _look(
            layer.crossattention,
            states,
            image_states,
            image_of_text,
            (packings[0], packings[1], *told),
            packings[2],
        )
        states = layer.output(layer.intermediate(states), states)
        encoded, captions = states.split([sum(sizes), len(captions)])
    return encoded, captions


def _matching(model: Blip, encoded: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of [3B, D] first states, of which the first B match."""
    logits = model.itm_head(encoded).float()
    labels = (torch.arange(len(encoded), device=encoded.device) < len(encoded) // 3).long()
    return F.cross_entropy(logits, labels)


def _look(
    block: MedAttention,
    states: torch.Tensor,
    image_states: torch.Tensor,
    image_of_text: torch.Tensor,
    own: tuple[Packing, ...],
    misled: Packing,
) -> torch.Tensor:
    """Cross-attention of all kinds of rows; `states` holds positives, wrong, misled, captions.

    `own` are the packings of rows that look at their own picture: positives, wrong, and captions
    where there are any.
    """
    keys, values = block.self.keys_values(image_states)
    dropout = block.dropout if block.training else 0.0
    kinds = (*own[:2], misled, *own[2:])
    queries = block.self.query(states).split([len(packing) for packing in kinds])
    padded = [packing.pad(query) for packing, query in zip(kinds, queries, strict=True)]
    together = torch.cat([*padded[:2], *padded[3:]], 1)
    seen = attention(heads(block, together), keys, values, dropout=dropout)
    lengths = [part.shape[1] for part in (*padded[:2], *padded[3:])]
    seen = seen.transpose(1, 2).flatten(2).split(lengths, 1)
    elsewhere = attention(
        heads(block, padded[2]),
        keys.index_select(0, image_of_text),
        values.index_select(0, image_of_text),
        dropout=dropout,
    )
    elsewhere = elsewhere.transpose(1, 2).flatten(2)
    contexts = (*seen[:2], elsewhere, *seen[2:])
    packed = [packing.pack(context) for packing, context in zip(kinds, contexts, strict=True)]
    return block.output(torch.cat(packed), states)


def _captioning(
    model: Blip,
    captions: torch.Tensor,
    ids: torch.Tensor,
    packing: Packing,
    label_smoothing: float,
    group_size: int,
) -> torch.Tensor:
    """Next-token loss of packed decoder states; each row's last token predicts nothing."""
    rows, columns = packing.rows, packing.columns
    predicts = F.pad(packing.mask[:, 1:], (0, 1))[rows, columns].nonzero()[:, 0]
    rows, columns = rows[predicts], columns[predicts]
    logits = model.text_decoder.cls.predictions(captions[predicts]).float()
    losses = F.cross_entropy(
        logits, ids[rows, columns + 1], reduction="none", label_smoothing=label_smoothing
    )
    groups, zeros = rows // group_size, losses.new_zeros(len(ids) // group_size)
    totals = zeros.index_add(0, groups, losses)
    counts = zeros.index_add(0, groups, torch.ones_like(losses))
    return (totals / counts.clamp(min=1)).mean()
