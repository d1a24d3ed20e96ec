"""What makes planned views on a device, and the small picture that it is tried out with."""

import io
from typing import ClassVar, Protocol

import torch
from PIL import Image

from engine.data.augment import to_bytes
from engine.data.planned_view import PlannedView, PlannedViews

# Batches under way at once: one that a step waits for, and the next.
AHEAD = 2
# Mean distance of a tried view: far above what roundings make, far below another picture.
TRIAL_STEPS = 3.0


class ViewMaker(Protocol):
    """Makes views in the order that they are started in, `AHEAD` batches at once at most.

    It is fed batch by batch with what the slots' own counters drew, and holds no order, no random
    number and no state that a resumed run would miss. It begins with the trial's picture, so that
    one that cannot work, or works wrongly, on a device is found before a run begins.

    Attributes:
        name: for people.
        install: what brings it.
    """

    name: ClassVar[str]
    install: ClassVar[str]

    @staticmethod
    def is_installed() -> bool:
        """Whether it is there; nothing is imported."""

    def start(self, planned: PlannedViews) -> None:
        """Begin with a batch.

        Raises:
            Exception: one of its pictures cannot be decoded, or one before; this object is of no
                more use.
        """

    def take(self, planned: PlannedViews) -> torch.Tensor:
        """Views of the oldest batch that was started: [P, 3, S, S] uint8 on the device, without
        their operations.

        Args:
            planned: the batch, so that none is taken for another.

        Raises:
            Exception: as `start`, or it is not the oldest.
        """


def trial(size: int) -> tuple[PlannedViews, torch.Tensor]:
    """A mirrored crop of a smooth picture, and [1, 3, S, S] uint8 of it by the definition."""
    image = Image.linear_gradient("L").convert("RGB").resize((192, 160))
    image.paste((200, 40, 90), (96, 0, 192, 80))
    content, box, cubic = io.BytesIO(), (33, 17, 161, 145), Image.Resampling.BICUBIC
    image.save(content, "JPEG", quality=95)
    view = Image.open(content).crop(box).resize((size, size), cubic)
    expected = to_bytes(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[None]
    return PlannedViews.of([PlannedView(content.getvalue(), box, True, [], size)]), expected


def refuse_another(view: torch.Tensor, expected: torch.Tensor) -> None:
    """Hold what a maker made of the trial to the definition's.

    Raises:
        RuntimeError: it is another picture.
    """
    apart = (view.cpu().float() - expected.float()).abs().mean()
    if not apart <= TRIAL_STEPS:
        raise RuntimeError(f"its views are {apart:.1f} steps of 255 from Pillow's")
