"""The text transformer on packed tokens: only attention sees rows."""

import torch

from blip_model.med import MedAttention, TextTransformer
from blip_model.packing import Packing
from kernels import attention


def embed(text: TextTransformer, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
    """[rows, length] ids -> [T, D]."""
    return text.embeddings.at(packing.pack(ids), packing.columns)


def self_attend(
    block: MedAttention,
    states: torch.Tensor,
    packing: Packing,
    *,
    causal: bool = False,
    first_only: bool = False,
) -> torch.Tensor:
    """Self-attention of rows on packed states [T, D].

    Args:
        block: the layer's self-attention.
        states: [T, D].
        packing: of the rows.
        causal: a token sees itself and earlier ones.
        first_only: compute the first token of each row only.

    Returns:
        [T, D], or [rows, D].
    """
    asking = states[packing.first] if first_only else states
    answer = Packing.singles(len(packing.mask), states.device) if first_only else packing
    context = attention(
        heads(block, answer.pad(block.self.query(asking))),
        heads(block, packing.pad(block.self.key(states))),
        heads(block, packing.pad(block.self.value(states))),
        causal=causal,
        key_mask=packing.mask,
        dropout=block.dropout if block.training else 0.0,
    )
    return block.output(answer.pack(context.transpose(1, 2).flatten(2)), asking)


def heads(block: MedAttention, padded: torch.Tensor) -> torch.Tensor:
    """[rows, length, D] -> [rows, H, length, K]."""
    return padded.unflatten(2, (block.self.heads, -1)).transpose(1, 2)


def first_states(text: TextTransformer, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What `text(ids, mask)[:, 0]` is, without padding and without what is not read: [rows, D]."""
    packing = Packing.of(mask)
    states = embed(text, ids, packing)
    for number, layer in enumerate(text.encoder.layer, 1):
        last = number == len(text.encoder.layer)
        states = self_attend(layer.attention, states, packing, first_only=last)
        states = layer.output(layer.intermediate(states), states)
    return states
