"""Texts without padding: the tokens of all rows one after the other."""

from dataclasses import dataclass
from typing import Any

import torch

from kernels.transfer import sent


@dataclass(frozen=True)
class Packing:
    """Where each of T tokens lies in [rows, length].

    With a capacity T is that, whatever the texts are: shapes follow from sizes that the host
    knows, and it never waits for the device. The spare tokens behind the last real one repeat
    what stands in the first place and are written to none, so all their gradients are exactly 0.

    Attributes:
        flat: [T] int64, row * length + column; 0 for a spare token.
        first: [rows] int64, place of each row's first token among the T.
        lengths: [rows] int64, how many tokens each row has.
        mask: [rows, length] bool, True where there is a token.
        spots: [T] int64, as `flat`, but rows * length for a spare token; None where none is.
    """

    flat: torch.Tensor
    first: torch.Tensor
    lengths: torch.Tensor
    mask: torch.Tensor
    spots: torch.Tensor | None = None

    @classmethod
    def of(cls, mask: torch.Tensor, capacity: int | None = None) -> "Packing":
        """From a mask [rows, length] whose rows begin with at least one token.

        Args:
            mask: non-zero where there is a token.
            capacity: places for tokens, at least as many as there are; None makes as many as
                there are, which a GPU must be asked for.
        """
        mask = mask.bool()
        lengths = mask.sum(1)
        first = lengths.cumsum(0) - lengths
        if capacity is None:
            return cls(mask.flatten().nonzero()[:, 0], first, lengths, mask)
        nowhere = mask.numel()
        tokens = mask.flatten()
        # Place 0 takes what is no token and is cut off; a token too many has none, an error.
        order = torch.where(tokens, tokens.cumsum(0), 0)
        numbers = torch.arange(nowhere, device=mask.device)
        spots = numbers.new_full((capacity + 1,), nowhere).scatter(0, order, numbers)[1:]
        return cls(torch.where(spots == nowhere, 0, spots), first, lengths, mask, spots)

    @classmethod
    def singles(cls, rows: int, device: torch.device) -> "Packing":
        """Rows of one token each."""
        numbers = torch.arange(rows, device=device)
        mask = torch.ones(rows, 1, dtype=torch.bool, device=device)
        return cls(numbers, numbers, mask.sum(1), mask)

    @classmethod
    def joined(cls, parts: "list[Packing]") -> "Packing":
        """The rows and tokens of all parts, of one length and all with a capacity or none."""
        rows = torch.cat([part.mask for part in parts])
        flat, first, spots, cells, tokens = [], [], [], 0, 0
        for part in parts:
            flat.append(part.flat + cells)
            first.append(part.first + tokens)
            if part.spots is not None:
                spare = part.spots == part.mask.numel()
                spots.append(torch.where(spare, rows.numel(), part.spots + cells))
            cells, tokens = cells + part.mask.numel(), tokens + len(part)
        lengths = torch.cat([part.lengths for part in parts])
        joined = (torch.cat(flat), torch.cat(first), lengths, rows)
        return cls(*joined, torch.cat(spots) if spots else None)

    def to(self, device: torch.device) -> "Packing":
        """The same on a device, which has not been asked for anything."""
        spots = None if self.spots is None else sent(self.spots, device)
        places = (self.flat, self.first, self.lengths, self.mask)
        return Packing(*(sent(tensor, device) for tensor in places), spots)

    def __len__(self) -> int:
        return len(self.flat)

    @property
    def columns(self) -> torch.Tensor:
        """[T] position of each token in its row."""
        return self.flat % self.mask.shape[1]

    @property
    def rows(self) -> torch.Tensor:
        """[T] row of each token."""
        return self.flat // self.mask.shape[1]

    @property
    def spare(self) -> torch.Tensor | None:
        """[T] bool, True for a spare token; None where there is none."""
        return None if self.spots is None else self.spots == self.mask.numel()

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """[rows, length, ...] -> [T, ...]."""
        return _Pack.apply(padded, self.flat, self.spots)

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """[T, ...] -> [rows, length, ...], zeros between."""
        return _padded(packed, self.flat, self.spots, self.mask.shape)


class _Pack(torch.autograd.Function):
    """Takes tokens out; their gradients are put back, each in a place of its own, and not added
    up as PyTorch must where it does not know that."""

    @staticmethod
    def forward(
        ctx: Any, padded: torch.Tensor, flat: torch.Tensor, spots: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(flat, spots)
        ctx.cells = padded.shape[:2]
        return padded.flatten(0, 1).index_select(0, flat)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        return _padded(upstream, *ctx.saved_tensors, ctx.cells), None, None


def _padded(
    packed: torch.Tensor, flat: torch.Tensor, spots: torch.Tensor | None, shape: torch.Size
) -> torch.Tensor:
    cells = shape[0] * shape[1]
    # Spare tokens have a place behind all others, which is cut off.
    spare = int(spots is not None)
    padded = packed.new_zeros(cells + spare, *packed.shape[1:])
    padded = padded.index_copy_(0, spots if spare else flat, packed)
    return padded[:cells].unflatten(0, shape)
