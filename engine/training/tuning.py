"""What a fine-tuning trains: each goes on from weights."""

from typing import Any

from blip_model.caption import BlipCaption
from blip_model.flops import (
    caption_flops,
    nlvr_flops,
    retrieval_flops,
    visdial_flops,
    vqa_flops,
)
from blip_model.momentum import Momentum
from blip_model.nlvr import BlipNlvr
from blip_model.retrieval import BlipRetrieval
from blip_model.visdial import BlipVisdial
from blip_model.vqa import BlipVqa
from engine.config import ConfigError, RunConfig
from engine.data.batch import Batch
from engine.data.dialogue_text import DialogueSlots
from engine.data.dialogues import WRONG
from engine.data.loader import Slots
from engine.data.questions import QuestionSlots
from engine.data.statements import StatementSlots
from engine.data.tokenizer import Tokenizer
from engine.data.video_pairs import VideoSlots
from engine.data.video_questions import VideoQuestionSlots
from engine.training.objectives import Built
from engine.weights import Loaded, initialise, open_weights, start_from, start_momentum


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
        lengths = {"data.max_tokens": config.data.max_tokens}
        for number, stage in enumerate(config.data.curriculum):
            if stage.max_tokens is not None:
                lengths[f"data.curriculum, stage {number}: max_tokens"] = stage.max_tokens
        shortest = min(lengths, key=lengths.__getitem__)
        if lengths[shortest] < self.prompt_length + 2:
            raise ConfigError(
                f"{shortest} {lengths[shortest]}: evaluate.prompt takes {self.prompt_length} "
                "tokens, which leaves none for a caption and its end"
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
    slots = Slots

    def __init__(self, config: RunConfig, tokenizer: Tokenizer) -> None:
        refuse_no_weights(config)
        self.section, self.config = config.model, config.model.network()
        self.frames = self.slots.frames(config.data)


class Retrieval(FineTuning):
    """A filter: contrast and matching, where all texts of a picture, or video, belong to it."""

    losses = ("loss_itc", "loss_itm")

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
        # The original moves them before each step, and those of a pretraining are not equal to its
        # network: here a step moves them at its end.
        momentum.update(model.state_dict(), self.section.momentum)
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
        return retrieval_flops(self.config, tokens, self.frames)


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
        return vqa_flops(self.config, tokens, self.frames)


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


class VideoRetrieval(Retrieval):
    """A filter of videos."""

    slots = VideoSlots


class VideoAnswering(Answering):
    """Questions about videos."""

    slots = VideoQuestionSlots


OBJECTIVES = {
    "caption": Captioning,
    "retrieval": Retrieval,
    "nlvr": Nlvr,
    "visdial": Dialogue,
    "vqa": Answering,
    "video_retrieval": VideoRetrieval,
    "video_qa": VideoAnswering,
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
