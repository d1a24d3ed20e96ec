"""Captioning without padding: attention alone sees rows, scored places alone the vocabulary."""

import torch
import torch.nn.functional as F

from blip_model.blip import Blip, with_first_token
from blip_model.med import MedAttention
from blip_model.objectives.lm import IGNORED, next_token_targets
from blip_model.packed_text import SharedEmbeddings, heads, self_attend
from blip_model.packing import Packing
from kernels import attention


def packed_captioning(
    model: Blip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    *,
    prompt_length: int,
    label_smoothing: float,
    group_size: int,
) -> torch.Tensor:
    """The loss of `objectives.lm.language_modelling` on `Blip.decode`, with less work.

    Args:
        model: with decoder.
        ids: [B, L], prompt and caption.
        mask: [B, L].
        image_states: [B, P, vision width].
        prompt_length: leading tokens that are not scored.
        label_smoothing: share of the target spread over the vocabulary.
        group_size: rows whose tokens are averaged together.
    """
    decoder, packing = model.text_decoder, Packing.of(mask)
    ids = with_first_token(ids, model.config.bos_token_id)
    states = SharedEmbeddings.of(decoder.bert, ids, packing).own()
    for layer in decoder.bert.encoder.layer:
        states = self_attend(layer.attention, states, packing, causal=True)
        states = _look(layer.crossattention, states, image_states, packing)
        states = layer.output(layer.intermediate(states), states)
    # The place of a token is that before its target; the last column is before none.
    targets = F.pad(next_token_targets(ids, mask, prompt_length), (0, 1), value=IGNORED)
    targets = packing.pack(targets)
    scored = (targets != IGNORED).nonzero()[:, 0]
    logits = decoder.cls.predictions(states.index_select(0, scored)).float()
    losses = F.cross_entropy(
        logits, targets[scored], reduction="none", label_smoothing=label_smoothing
    )
    groups = packing.rows[scored] // group_size
    zeros = losses.new_zeros(len(ids) // group_size)
    totals = zeros.index_add(0, groups, losses)
    counts = zeros.index_add(0, groups, torch.ones_like(losses))
    return (totals / counts.clamp(min=1)).mean()


def _look(
    block: MedAttention, states: torch.Tensor, image_states: torch.Tensor, packing: Packing
) -> torch.Tensor:
    """Cross-attention of packed states [T, D] to the picture of their row."""
    keys, values = block.self.keys_values(image_states)
    queries = heads(block, packing.pad(block.self.query(states)))
    dropout = block.dropout if block.training else 0.0
    context = attention(queries, keys, values, dropout=dropout)
    return block.output(packing.pack(context.transpose(1, 2).flatten(2)), states)
