"""Pictures encoded in batches, most of which have one size: a GPU replays those."""

from dataclasses import dataclass

import torch

from blip_model.layers import for_products
from blip_model.replayed import Replayed
from engine.data.augment import normalised
from engine.inference import LoadedBlip


@dataclass(frozen=True)
class States:
    """Pictures as a model encodes them.

    Attributes:
        states: [B, P, vision width].
        finite: [] bool on the device, to be asked when there is nothing left to do beside it.
    """

    states: torch.Tensor
    finite: torch.Tensor


class Encoder:
    """A model's image encoder.

    Launching its some 120 operations takes a host about as long as a GPU needs for them, and other
    threads want Python meanwhile.

    Args:
        blip: weights.
        batch_size: of full batches.
        lasting: states are read after the next batch was encoded.
    """

    def __init__(self, blip: LoadedBlip, batch_size: int, *, lasting: bool) -> None:
        self._blip, self._full, self._lasting = blip, batch_size, lasting
        self._replayed = Replayed(self._work)

    def __call__(self, views: dict[int, torch.Tensor]) -> States:
        """Encode pictures: views [B, 3, S, S] uint8 by size S, on the device."""
        pixels = views[self._blip.model.config.image_size]
        made = (self._replayed if len(pixels) == self._full else self._work)(pixels)
        # A replay writes where the one before it did.
        return States(*(one.clone() if self._lasting else one for one in made))

    def _work(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Only products read views and states, so both come as these want them."""
        low = torch.float32 if self._blip.precision == "fp32" else torch.bfloat16
        with self._blip.autocast():
            states = for_products(self._blip.model.encode_image(normalised(pixels, low)))
        # By their sum, which is read once: looking at each takes a GPU five passes.
        return states, states.sum(dtype=torch.float32).isfinite()
