"""Batches to measure with: random pictures, captions of known lengths."""

from dataclasses import dataclass

import torch

from bench.original_step import MAX_TOKENS
from bench.plan import LENGTHS
from blip_model.config import BlipConfig
from engine.data.bounds import bounded


@dataclass(frozen=True)
class Pairs:
    """A batch.

    Attributes:
        image: [B, 3, H, W].
        ids: [B, 30] int64, [CLS] first, padded.
        mask: [B, 30] int64.
        longest: length that our loader pads to.
        capacity: places that our loader gives the tokens of all captions; None on a CPU.
    """

    image: torch.Tensor
    ids: torch.Tensor
    mask: torch.Tensor
    longest: int
    capacity: int | None

    def padded(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the original's tokenizer pads: to 30 tokens."""
        return self.image, self.ids, self.mask

    def trimmed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As our loader pads: to the longest caption, on a GPU to one of few lengths."""
        return self.image, self.ids[:, : self.longest], self.mask[:, : self.longest]


def pairs(config: BlipConfig, count: int, device: torch.device) -> Pairs:
    """`count` random pairs with 13 tokens a caption in the mean (for multiples of 4)."""
    generator = torch.Generator().manual_seed(count)
    size = config.image_size
    image = torch.randn(count, 3, size, size, generator=generator)
    ids = torch.randint(1000, 20000, (count, MAX_TOKENS), generator=generator)
    lengths = torch.tensor([LENGTHS[row % len(LENGTHS)] for row in range(count)])
    mask = (torch.arange(MAX_TOKENS) < lengths[:, None]).long()
    ids[:, 0] = 101
    ids[torch.arange(count), lengths - 1] = config.sep_token_id
    longest, capacity = int(lengths.max()), None
    if device.type == "cuda":
        few, _, capacity = bounded(ids[:, :longest], mask[:, :longest], MAX_TOKENS)
        longest = few.shape[1]
    tensors = (image.to(device), (ids * mask).to(device), mask.to(device))
    return Pairs(*tensors, longest, capacity)
