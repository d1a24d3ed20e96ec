"""What every loader yields and every objective takes."""

from dataclasses import dataclass, fields, replace

import torch

from blip_model.answers import Answers
from engine.data.planned_view import PlannedViews


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a rank, in slot order.

    Attributes:
        image: [B, 3, H, W] uint8, a quarter of what has to move once they are normalised, which
            the device does; [B, 2, 3, H, W] for statements about two, and [B, F, 3, H, W] for F
            frames of videos.
        input_ids: [B, T] int64, [CLS] first, [SEP] last, padded with 0 to the longest caption.
            Of dialogues [B * A, T], each with A answers.
        attention_mask: as input_ids, 1 where there is a token.
        image_id: [B] int64, equal for samples of the same picture.
        key: B names, to point at a sample in a log.
        reason: B reason codes, "" for a good sample, else why its slot holds a substitute.
        capacity: places for the tokens of all captions, one of few numbers; None: as many as
            there are tokens.
        label: [B] int64, 1 where a statement is true, or a dialogue's answer right; None for pairs.
        answers: of questions; None for pairs.
        planned: views that the device has still to make, and `image` holds those of the other
            rows; None where all are there.
    """

    image: torch.Tensor
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    image_id: torch.Tensor
    key: list[str]
    reason: list[str]
    capacity: int | None = None
    label: torch.Tensor | None = None
    answers: Answers | None = None
    planned: PlannedViews | None = None

    def __len__(self) -> int:
        return len(self.key)

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on `device`, copied without blocking."""
        moved = {n: tensor.to(device, non_blocking=True) for n, tensor in self._tensors().items()}
        return replace(self, **moved)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory (called by the data loader)."""
        return replace(self, **{n: tensor.pin_memory() for n, tensor in self._tensors().items()})

    def flat(self) -> dict[str, torch.Tensor]:
        """Its own tensors by name, without those of answers."""
        named = self._tensors().items()
        return {name: value for name, value in named if isinstance(value, torch.Tensor)}

    def _tensors(self) -> dict[str, torch.Tensor | Answers]:
        named, kinds = {f.name: getattr(self, f.name) for f in fields(self)}, torch.Tensor | Answers
        return {name: value for name, value in named.items() if isinstance(value, kinds)}
