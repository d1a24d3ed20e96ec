"""The text transformer on packed tokens: only attention sees rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from blip_model.layers import for_products, together, together_in_turn
from blip_model.looking import heads, look_by_blocks, own_blocks, pads
from blip_model.med import MedAttention, MedLayer, TextTransformer
from blip_model.packing import Packing
from blip_model.recompute import run_layer
from kernels import attention, attention_rows


@dataclass(frozen=True)
class SharedEmbeddings:
    """Embeddings of texts that are read several times, each time with another first token.

    The table of words is looked up once for all of them, so that the backward pass makes one
    gradient of its size instead of one a reading. Every reading has its own dropout.

    Attributes:
        text: whose embeddings they are.
        packing: of the texts.
        table: [T + F, D] before dropout: the texts' tokens, then F other first tokens.
    """

    text: TextTransformer
    packing: Packing
    table: torch.Tensor

    @classmethod
    def of(
        cls, text: TextTransformer, ids: torch.Tensor, packing: Packing, firsts: Sequence[int] = ()
    ) -> "SharedEmbeddings":
        """Look up [rows, length] ids and the words of `firsts` at position 0."""
        more = [ids.new_full((1,), word) for word in firsts]
        positions = F.pad(packing.columns, (0, len(firsts)))
        table = text.embeddings.normed(torch.cat([packing.pack(ids), *more]), positions)
        return cls(text, packing, table)

    def places(self, row: torch.Tensor, packing: Packing, first: int) -> torch.Tensor:
        """Where the tokens of texts lie in the table.

        Args:
            row: [rows] which text each row reads.
            packing: of those rows.
            first: number of the word in `firsts` that they begin with.

        Returns:
            [tokens of `packing`] int64.
        """
        columns = packing.columns
        places = self.packing.first[row][packing.rows] + columns
        return torch.where(columns == 0, len(self.packing) + first, places)

    def read(self, places: torch.Tensor) -> torch.Tensor:
        """[T] places -> [T, D], with dropout."""
        return self.text.embeddings.dropout(self.table.index_select(0, places))

    def own(self) -> torch.Tensor:
        """[T, D] of the texts as they are, with dropout."""
        return self.text.embeddings.dropout(self.table[: len(self.packing)])


def self_attend(
    block: MedAttention,
    states: torch.Tensor,
    packing: Packing,
    *,
    causal: bool = False,
    first_only: bool = False,
) -> torch.Tensor:
    """Self-attention of rows on packed states, end included; arguments as in `self_context`."""
    context = self_context(
        block, for_products(states), packing, causal=causal, first_only=first_only
    )
    asking = states.index_select(0, packing.first) if first_only else states
    return block.output(context, asking)


def self_context(
    block: MedAttention,
    low: torch.Tensor,
    packing: Packing,
    *,
    causal: bool = False,
    first_only: bool = False,
) -> torch.Tensor:
    """What rows see of packed states in self-attention.

    Args:
        block: the layer's self-attention.
        low: [T, D] states in the dtype of products.
        packing: of the rows.
        causal: a token sees itself and earlier ones.
        first_only: compute the first token of each row only.

    Returns:
        [T, D], or [rows, D].
    """
    answer, maps = packing, (block.self.query, block.self.key, block.self.value)
    if first_only:
        answer = Packing.singles(len(packing.mask), low.device)
        projected = (maps[0](low.index_select(0, packing.first)), *together(low, *maps[1:]))
    else:
        projected = together(low, *maps)
    return attention_rows(
        *(tokens.unflatten(1, (block.self.heads, -1)) for tokens in projected),
        *(answer.first, answer.lengths, packing.first, packing.lengths),
        (answer.mask.shape[1], packing.mask.shape[1]),
        causal=causal,
        dropout=block.dropout if block.training else 0.0,
    ).flatten(1)


def cross_attend(
    block: MedAttention,
    states: torch.Tensor,
    image_states: torch.Tensor,
    asking: Packing,
    image_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-attention of packed states.

    Args:
        block: the layer's cross-attention.
        states: [T, D].
        image_states: [B, P, vision width].
        asking: of the T tokens into B rows, each of which looks at the picture of its number;
            from `Packing.of`.
        image_mask: [B, P] bool, which of the states are there; None where all are.

    Returns:
        [T, D], and the image's states, for the layer after, as `looking.look`.
    """
    if image_mask is None and not pads(block, image_states):
        maps = (block.self.key, block.self.value)
        pictures, image_states = together_in_turn(image_states, *maps)
        asked = (block.self.query(states), pictures, own_blocks(asking))
        return block.output(look_by_blocks(block, *asked), states), image_states
    keys, values = block.self.keys_values(image_states)
    queries = heads(block, asking.pad(block.self.query(states)))
    dropout = block.dropout if block.training else 0.0
    context = attention(queries, keys, values, key_mask=image_mask, dropout=dropout)
    context = asking.pack(context.transpose(1, 2).flatten(2))
    return block.output(context, states), image_states


def looking_states(
    text: TextTransformer,
    states: torch.Tensor,
    packing: Packing,
    image_states: torch.Tensor,
    *,
    causal: bool,
    asking: Packing | None = None,
    image_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """All layers with cross-attention on packed embeddings [T, D]: what `text(...)` packs to.

    Args:
        text: whose layers.
        states: [T, D] embeddings.
        packing: of the texts.
        image_states: [B, P, vision width].
        causal: a token sees itself and earlier ones.
        asking: see `cross_attend`; None where each text has its own picture.
        image_mask: see `cross_attend`.
    """

    image_states = for_products(image_states)

    def run(
        layer: MedLayer, states: torch.Tensor, image_states: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = self_attend(layer.attention, states, packing, causal=causal)
        looking = (image_states, packing if asking is None else asking, image_mask)
        states, image_states = cross_attend(layer.crossattention, states, *looking)
        return layer.feed_forward(states), image_states

    for layer in text.encoder.layer:
        inputs = (layer, states, image_states)
        states, image_states = run_layer(run, *inputs, recompute=text.recompute)
    return states


def first_states(embedded: SharedEmbeddings) -> torch.Tensor:
    """What `text(ids, mask)[:, 0]` is, without padding and without what is not read: [rows, D]."""
    states, packing, text = embedded.own(), embedded.packing, embedded.text

    def run(layer: MedLayer, states: torch.Tensor, last: bool) -> torch.Tensor:
        states = self_attend(layer.attention, states, packing, first_only=last)
        return layer.feed_forward(states)

    for number, layer in enumerate(text.encoder.layer, 1):
        last = number == len(text.encoder.layer)
        states = run_layer(run, layer, states, last, recompute=text.recompute)
    return states
