"""What a run trains: the network, its losses, and what its forward needs beside the batch."""

from dataclasses import dataclass
from typing import Any, Protocol

from blip_model.blip import Blip
from blip_model.contrastive import BlipContrast
from blip_model.flops import (
    contrast_flops,
    pretraining_flops,
)
from blip_model.momentum import Momentum
from blip_model.pretrain import BlipPretrain
from engine.config import RunConfig
from engine.data.batch import Batch
from engine.data.loader import Slots
from engine.data.tokenizer import Tokenizer
from engine.weights import Loaded, initialise


@dataclass(frozen=True)
class Built:
    """The parts of a run before DeepSpeed wraps them.

    Attributes:
        model: the online network.
        momentum: what follows it; None where the objective has no contrast.
        loaded: what became of the weights that the run starts from.
    """

    model: Blip
    momentum: Momentum | None
    loaded: Loaded = Loaded()


class Objective(Protocol):
    """What the loop asks of an objective.

    Attributes:
        losses: names in what the forward returns; their sum is trained.
        prompt: that every text starts with, or "".
        slots: what opens and prepares its samples.
    """

    losses: tuple[str, ...]
    prompt: str
    slots: type[Slots]

    def build(self, fresh: bool) -> Built:
        """The modules; `fresh` ones take the weights that the run starts from."""
        ...

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward.

        Args:
            batch: on the device.
            contrast: keywords of a contrastive objective (momentum features, alpha, the draw, the
                capacity).
        """
        ...

    def flops(self, tokens: float) -> float:
        """Useful FLOP a pair, forward and backward, for texts of `tokens` on average."""
        ...


class Pretraining:
    """Contrast, matching and captioning."""

    losses = ("loss_itc", "loss_itm", "loss_lm")
    prompt = ""
    slots = Slots

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        self.section, self.config = config.model, config.model.network()

    def build(self, fresh: bool) -> Built:
        """A network from what the run names, or drawn; the momentum encoders start equal to it."""
        model = BlipPretrain(self.config, label_smoothing=self.section.label_smoothing)
        loaded = initialise(model, self.section) if fresh else Loaded()
        if fresh:
            model.clamp_temperature_()
        return Built(model, Momentum(model, self.section.queue_size), loaded)

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        return contrast

    def flops(self, tokens: float) -> float:
        """Useful FLOP a pair."""
        return pretraining_flops(self.config, tokens)


class Contrast:
    """Contrast alone, what CLIP and ALIGN train: the baseline of the method's authors."""

    losses = ("loss_itc",)
    prompt = ""
    slots = Slots

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        self.section, self.config = config.model, config.model.network()

    def build(self, fresh: bool) -> Built:
        """Both encoders from what the run names, or drawn."""
        model = BlipContrast(self.config)
        loaded = initialise(model, self.section) if fresh else Loaded()
        if fresh:
            model.clamp_temperature_()
        return Built(model, None, loaded)

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        return {"group_size": contrast["group_size"]}

    def flops(self, tokens: float) -> float:
        """Useful FLOP a pair."""
        return contrast_flops(self.config, tokens)


def pretraining(config: RunConfig, tokenizer: Tokenizer) -> Objective:
    """What a pretraining trains: BLIP's three losses, or contrast alone."""
    kind = Contrast if config.train.contrast_only else Pretraining
    return kind(config, tokenizer)
