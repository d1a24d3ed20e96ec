"""What a run trains: the network, its losses, and what its forward needs beside the batch."""

from dataclasses import dataclass
from typing import Any, Protocol

from blip_model.blip import Blip
from blip_model.caption import BlipCaption
from blip_model.contrastive import BlipContrast
from blip_model.flops import (
    caption_flops,
    contrast_flops,
    nlvr_flops,
    pretraining_flops,
    retrieval_flops,
    visdial_flops,
    vqa_flops,
)
from blip_model.momentum import Momentum
from blip_model.nlvr import BlipNlvr
from blip_model.pretrain import BlipPretrain
from blip_model.retrieval import BlipRetrieval
from blip_model.visdial import BlipVisdial
from blip_model.vqa import BlipVqa
from engine.config import ConfigError, RunConfig
from engine.data.batch import Batch
from engine.data.dialogue_text import WRONG, DialogueSlots
from engine.data.loader import Slots
from engine.data.questions import QuestionSlots
from engine.data.statements import StatementSlots
from engine.data.tokenizer import Tokenizer
from engine.weights import Loaded, initialise, open_weights, start_from, start_momentum


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
    """Contrast alone, what CLIP and ALIGN train: the baseline of an ablation."""

    losses = ("loss_itc",)
    prompt = ""
    slots = Slots

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        self.section, self.config = config.model, config.model.network()

    def build(self, fresh: bool) -> Built:
        """Both encoders from what the run names, or drawn."""
        model = BlipContrast(self.config)
        return Built(model, None, initialise(model, self.section) if fresh else Loaded())

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        return {"group_size": contrast["group_size"]}

    def flops(self, tokens: float) -> float:
        """Useful FLOP a pair."""
        return contrast_flops(self.config, tokens)


class Captioning:
    """A captioner: the decoder learns to continue a prompt that is not scored.

    Raises:
        ConfigError: no weights to start from, or texts too short for the prompt and a word.
    """

    losses = ("loss_lm",)
    slots = Slots

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        refuse_no_weights(config)
        self.section, self.config = config.model, config.model.network()
        self.prompt = config.evaluate.prompt
        # Without [SEP]; the original's prompt_length.
        self.prompt_length = tokenizer.encode([self.prompt], 512)[0].shape[1] - 1
        shortest = [s.max_tokens for s in config.data.curriculum if s.max_tokens is not None]
        if min([config.data.max_tokens, *shortest]) < self.prompt_length + 2:
            raise ConfigError(
                f"data.max_tokens {config.data.max_tokens}: evaluate.prompt takes "
                f"{self.prompt_length} tokens, which leaves none for a caption and its end"
            )

    def build(self, fresh: bool) -> Built:
        """The decoder and the image encoder of the weights."""
        model = BlipCaption(self.config, label_smoothing=self.section.label_smoothing)
        return Built(model, None, initialise(model, self.section) if fresh else Loaded())

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        shared = {name: contrast[name] for name in ("group_size", "capacity")}
        return {"prompt_length": self.prompt_length, **shared}

    def flops(self, tokens: float) -> float:
        """Useful FLOP a pair."""
        return caption_flops(self.config, tokens, self.prompt_length)


class FineTuning:
    """What goes on from weights.

    Raises:
        ConfigError: none to start from.
    """

    prompt = ""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        refuse_no_weights(config)
        self.section, self.config = config.model, config.model.network()


class Retrieval(FineTuning):
    """A filter: contrast and matching, where all texts of a picture belong to it."""

    losses = ("loss_itc", "loss_itm")
    slots = Slots

    def build(self, fresh: bool) -> Built:
        """The encoders of the weights; momentum encoders and queues go on where they have any."""
        model = BlipRetrieval(self.config)
        if not fresh:
            return Built(model, Momentum(model, self.section.queue_size, with_ids=True))
        weights = open_weights(str(self.section.checkpoint))
        loaded = start_from(model, weights)
        model.clamp_temperature_()
        momentum = Momentum(model, self.section.queue_size, with_ids=True)
        followed = start_momentum(momentum, weights)
        taken = {*followed.loaded, *({"queue_ptr"} if "ptr_queue" in followed.loaded else ())}
        both = Loaded(
            loaded.loaded + followed.loaded,
            loaded.fresh + followed.fresh,
            tuple(name for name in loaded.dropped if name not in taken),
        )
        return Built(model, momentum, both)

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        return {**contrast, "image_id": batch.image_id}

    def flops(self, tokens: float) -> float:
        """Useful FLOP a pair."""
        return retrieval_flops(self.config, tokens)


class Nlvr(FineTuning):
    """NLVR2: is what a sentence says of two pictures true?"""

    losses = ("loss_nlvr",)
    slots = StatementSlots

    def build(self, fresh: bool) -> Built:
        """A MED's encoders, each cross-attention twice; or weights of this task."""
        model = BlipNlvr(self.config)
        return Built(model, None, initialise(model, self.section) if fresh else Loaded())

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        return {"label": batch.label}

    def flops(self, tokens: float) -> float:
        """Useful FLOP a statement."""
        return nlvr_flops(self.config, tokens)


class Answering(FineTuning):
    """Visual question answering: the decoder learns people's answers by their shares."""

    losses = ("loss_lm",)
    slots = QuestionSlots

    def build(self, fresh: bool) -> Built:
        """Image encoder, text encoder and decoder of the weights, the last two apart from now."""
        model = BlipVqa(self.config, label_smoothing=self.section.label_smoothing)
        return Built(model, None, initialise(model, self.section) if fresh else Loaded())

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        return {"answers": batch.answers, "capacity": contrast["capacity"]}

    def flops(self, tokens: float) -> float:
        """Useful FLOP a question."""
        return vqa_flops(self.config, tokens)


class Dialogue(FineTuning):
    """Visual dialogue: which answer is right after what was said?"""

    losses = ("loss_visdial",)
    slots = DialogueSlots

    def build(self, fresh: bool) -> Built:
        """Encoders and matching head of the weights."""
        model = BlipVisdial(self.config)
        return Built(model, None, initialise(model, self.section) if fresh else Loaded())

    def settings(self, batch: Batch, contrast: dict[str, Any]) -> dict[str, Any]:
        """Keywords of the forward."""
        return {"label": batch.label, "capacity": contrast["capacity"]}

    def flops(self, tokens: float) -> float:
        """Useful FLOP a round."""
        return visdial_flops(self.config, tokens, 1 + WRONG)


OBJECTIVES = {
    "caption": Captioning,
    "retrieval": Retrieval,
    "nlvr": Nlvr,
    "visdial": Dialogue,
    "vqa": Answering,
}


def refuse_no_weights(config: RunConfig) -> None:
    """Fine-tuning goes on from a pretraining.

    Raises:
        ConfigError: the run names no BLIP weights.
    """
    if not config.model.checkpoint:
        raise ConfigError(
            "no weights to fine-tune: set model.checkpoint to a pretraining's run folder, an "
            "original .pth or a Hugging Face folder"
        )
