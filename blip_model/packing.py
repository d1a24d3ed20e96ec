"""Texts without padding: the tokens of all rows one after the other."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Packing:
    """Where each of T tokens lies in [rows, length].

    Attributes:
        flat: [T] int64, row * length + column.
        first: [rows] int64, place of each row's first token among the T.
        mask: [rows, length] bool, True where there is a token.
    """

    flat: torch.Tensor
    first: torch.Tensor
    mask: torch.Tensor

    @classmethod
    def of(cls, mask: torch.Tensor) -> "Packing":
        """From a mask [rows, length] whose rows begin with at least one token."""
        mask = mask.bool()
        lengths = mask.sum(1)
        return cls(mask.flatten().nonzero()[:, 0], lengths.cumsum(0) - lengths, mask)

    @classmethod
    def singles(cls, rows: int, device: torch.device) -> "Packing":
        """Rows of one token each."""
        numbers = torch.arange(rows, device=device)
        return cls(numbers, numbers, torch.ones(rows, 1, dtype=torch.bool, device=device))

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

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """[rows, length, ...] -> [T, ...]."""
        return padded.flatten(0, 1).index_select(0, self.flat)

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """[T, ...] -> [rows, length, ...], zeros between."""
        rows, length = self.mask.shape
        padded = packed.new_zeros(rows * length, *packed.shape[1:])
        return padded.index_copy(0, self.flat, packed).unflatten(0, (rows, length))
