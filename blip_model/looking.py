"""Packed texts look at pictures: each at its own, some at another's.

Where the kernel runs, all tokens that look at a picture are one block of queries, wherever they
lie. Otherwise rows are padded: those that look at their own picture stand side by side, and for
those that look at another's its keys and values are taken.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from blip_model.layers import together_in_turn
from blip_model.med import MedAttention
from blip_model.packing import Packing
from kernels import attention, attention_pictures, attention_pictures_runs, by_picture

# Number of the kind of rows that look at another's picture.
MISLED = 2
Blocks = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Looking:
    """Which pictures packed tokens look at.

    Attributes:
        kinds: packings of B rows each, in the order of their tokens. The third kind, `MISLED`,
            looks at other pictures, all others look at that of their number.
        image_of_text: [B] the picture of each misled row.
        blocks: of tokens, for `attention_pictures`; None where rows are padded.
    """

    kinds: tuple[Packing, ...]
    image_of_text: torch.Tensor
    blocks: Blocks | None

    @classmethod
    def of(
        cls, kinds: tuple[Packing, ...], image_of_text: torch.Tensor, *, padded: bool
    ) -> "Looking":
        """See above; `padded` for want of the kernel, from `pads`."""
        if padded:
            return cls(kinds, image_of_text, None)
        count, pictures = len(image_of_text), []
        for number, packing in enumerate(kinds):
            picture = image_of_text[packing.rows] if number == MISLED else packing.rows
            spare = packing.spare
            pictures.append(picture if spare is None else torch.where(spare, count, picture))
        return cls(kinds, image_of_text, by_picture(torch.cat(pictures), count))


def pads(block: MedAttention, image_states: torch.Tensor) -> bool:
    """Whether rows are padded to look at pictures: `attention_pictures` does not run."""
    return not attention_pictures_runs(image_states, block.self.head_width, block.looking)


def own_blocks(packing: Packing) -> Blocks:
    """Blocks of tokens of rows that look at the picture of their number, from `Packing.of`: they
    stand in order, spare ones last."""
    order = torch.arange(len(packing), device=packing.flat.device)
    return order, F.pad(packing.lengths.cumsum(0), (1, 0))


def look(
    block: MedAttention, states: torch.Tensor, image_states: torch.Tensor, looking: Looking
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-attention of packed states [T, D], kind after kind, on [B, P, vision width]; and those
    of the pictures, for the layer after, so that gradients add up on their way back."""
    maps = (block.self.key, block.self.value)
    pictures, image_states = together_in_turn(image_states, *maps)
    queries = block.self.query(states)
    if looking.blocks is None:
        context = _look_padded(block, queries, pictures, looking)
    else:
        context = look_by_blocks(block, queries, pictures, looking.blocks)
    return block.output(context, states), image_states


def look_by_blocks(
    block: MedAttention,
    queries: torch.Tensor,
    pictures: tuple[torch.Tensor, torch.Tensor],
    blocks: Blocks,
) -> torch.Tensor:
    """Context [T, D] of queries [T, D] on keys and values [B, P, D]."""
    shape = (block.self.heads, -1)
    keys, values = (projected.unflatten(2, shape) for projected in pictures)
    dropout = block.dropout if block.training else 0.0
    inputs = (queries.unflatten(1, shape), keys, values, *blocks)
    return attention_pictures(*inputs, dropout=dropout, backend="triton").flatten(1)


def heads(block: MedAttention, padded: torch.Tensor) -> torch.Tensor:
    """[rows, length, D] -> [rows, H, length, K]."""
    return padded.unflatten(2, (block.self.heads, -1)).transpose(1, 2)


def _look_padded(
    block: MedAttention,
    queries: torch.Tensor,
    pictures: tuple[torch.Tensor, torch.Tensor],
    looking: Looking,
) -> torch.Tensor:
    """As `look_by_blocks`; rows that look at their own picture ask it as one row."""
    keys, values = (heads(block, projected) for projected in pictures)
    others = (heads(block, _Rows.apply(projected, looking.image_of_text)) for projected in pictures)
    dropout = block.dropout if block.training else 0.0
    parts = queries.split([len(packing) for packing in looking.kinds])
    padded = [packing.pad(part) for packing, part in zip(looking.kinds, parts, strict=True)]
    misled = padded.pop(MISLED)
    seen = attention(heads(block, torch.cat(padded, 1)), keys, values, dropout=dropout)
    lengths = [part.shape[1] for part in padded]
    contexts = list(seen.transpose(1, 2).flatten(2).split(lengths, 1))
    elsewhere = attention(heads(block, misled), *others, dropout=dropout)
    contexts.insert(MISLED, elsewhere.transpose(1, 2).flatten(2))
    pairs = zip(looking.kinds, contexts, strict=True)
    return torch.cat([packing.pack(context) for packing, context in pairs])


class _Rows(torch.autograd.Function):
    """x[index], some rows taken several times.

    Their gradients are added up by a product, in one order: PyTorch's own way adds numbers one by
    one, on a GPU in any order and as long as the products of the layer take.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.count = len(x)
        return x.index_select(0, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        rows = torch.arange(ctx.count, device=index.device)
        taken = (rows[:, None] == index).to(upstream.dtype)
        return (taken @ upstream.flatten(1)).view(ctx.count, *upstream.shape[1:]), None
