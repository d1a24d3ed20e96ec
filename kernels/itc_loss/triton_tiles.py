"""How programs of the streaming contrast work: the first of a dtype's ways that fits a GPU."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tiles:
    """How a program works.

    Attributes:
        rows: of a program, a multiple of `keys`.
        keys: at a time.
        step: features at a time in the scores' products; 0 for all, and then a tile of keys is
            loaded once for both products. In float32 that would not stay in registers.
        warps: of a program.
        stages: tiles of keys on their way or in use.
        resident: programs of a processor at once: while one computes its softmax, another's
            products keep the tensor cores busy.
    """

    rows: int
    keys: int
    step: int
    warps: int
    stages: int
    resident: int

    def shared(self, features: int, itemsize: int) -> int:
        """Bytes of shared memory at most, where all features are one step: rows, tiles of keys,
        and weights on their way from one product to the next."""
        held = (self.rows + self.stages * self.keys) * features + self.rows * self.keys
        return held * itemsize


# The last one fits every GPU. The first is Hopper's, up to 256 features; the second is what an
# A100 keeps in registers, and what the 99 KiB of smaller GPUs take at 256.
TILES = {
    torch.float32: (Tiles(16, 16, 32, 8, 1, 2),),
    torch.bfloat16: (
        Tiles(128, 64, 0, 8, 3, 1),
        Tiles(64, 32, 0, 8, 3, 1),
        Tiles(16, 16, 32, 8, 1, 2),
    ),
}


def tiles_of(dtype: torch.dtype, features: int, room: int) -> Tiles:
    """The first that fits.

    Args:
        dtype: of the products.
        features: padded.
        room: bytes of shared memory that a program may take.
    """
    *ways, last = TILES[dtype]
    return next((by for by in ways if by.shared(features, dtype.itemsize) <= room), last)
