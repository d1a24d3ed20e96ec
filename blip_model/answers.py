"""Answers of a batch's questions, and what a decoder that looks at the questions makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F

from blip_model.blip import with_first_token
from blip_model.config import BlipConfig
from blip_model.med import TextDecoder
from blip_model.objectives.lm import IGNORED, next_token_targets
from blip_model.packed_text import SharedEmbeddings, looking_states
from blip_model.packing import Packing
from kernels import lm_loss

# Rows of logits at a time where no gradient asks for a kernel.
ROWS = 2048


@dataclass(frozen=True)
class Answers:
    """Answers, those of the first question first.

    Attributes:
        ids: [A, T] int64, [CLS] first, [SEP] last, padded; two tokens at least.
        mask: [A, T].
        question: [A] int64, number of each answer's question; never falls.
        weight: [A] float32, share of the annotators that gave it.
        capacity: places for what all answers' tokens but the last are, as in `Packing.of`.
        block: at least as many as the answers of one question have of them; None counts, for
            which a GPU must be asked.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    question: torch.Tensor
    weight: torch.Tensor
    capacity: int | None = None
    block: int | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Answers":
        """The same on `device`."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Answers":
        """The same in page-locked memory."""
        return self._with(torch.Tensor.pin_memory)

    def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Answers":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        tensors = {name: v for name, v in values.items() if isinstance(v, torch.Tensor)}
        return replace(self, **{name: change(tensor) for name, tensor in tensors.items()})


@dataclass(frozen=True)
class QuestionStates:
    """Questions that were read with their pictures.

    Attributes:
        states: [B, L, D] of the text encoder.
        mask: [B, L] bool.
    """

    states: torch.Tensor
    mask: torch.Tensor

    def of(self, number: torch.Tensor) -> "QuestionStates":
        """Questions [N] by number."""
        return QuestionStates(
            self.states.index_select(0, number), self.mask.index_select(0, number)
        )


def answer_losses(
    decoder: TextDecoder,
    config: BlipConfig,
    answers: Answers,
    questions: QuestionStates,
    label_smoothing: float,
) -> torch.Tensor:
    """Summed next-token loss of each answer, [A] float32: the definition, padded."""
    ids = with_first_token(answers.ids, config.bos_token_id)
    seen = questions.of(answers.question)
    logits = decoder(ids, answers.mask, seen.states, seen.mask)[:, :-1]
    targets = next_token_targets(ids, answers.mask)
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(),
        targets.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
        ignore_index=IGNORED,
    )
    return losses.view(targets.shape).sum(1)


def packed_answering(
    decoder: TextDecoder,
    config: BlipConfig,
    answers: Answers,
    questions: QuestionStates,
    label_smoothing: float,
) -> torch.Tensor:
    """sum(weight * `answer_losses`) / questions, with less work; a scalar."""
    states, targets, packing = _decoded(decoder, config, answers, questions)
    weights = (answers.weight / len(questions.states))[packing.rows]
    if packing.spare is not None:
        weights = weights.masked_fill(packing.spare, 0.0)
    head = decoder.cls.predictions
    words = (head.decoder.weight, head.decoder.bias)
    states = head.transform(states)
    return lm_loss(states, *words, targets, weights, label_smoothing=label_smoothing)


def packed_answer_losses(
    decoder: TextDecoder,
    config: BlipConfig,
    answers: Answers,
    questions: QuestionStates,
    label_smoothing: float,
) -> torch.Tensor:
    """`answer_losses` without padding, and few logits at a time; of answers without capacity."""
    states, targets, packing = _decoded(decoder, config, answers, questions)
    losses = [
        F.cross_entropy(
            decoder.cls.predictions(some).float(),
            wanted,
            reduction="none",
            label_smoothing=label_smoothing,
        )
        for some, wanted in zip(states.split(ROWS), targets.split(ROWS), strict=True)
    ]
    return torch.zeros(len(answers.ids), device=states.device).index_add(
        0, packing.rows, torch.cat(losses)
    )


def _decoded(
    decoder: TextDecoder, config: BlipConfig, answers: Answers, questions: QuestionStates
) -> tuple[torch.Tensor, torch.Tensor, Packing]:
    """States [T, D] that predict a token, the tokens [T] that they should, and their places.

    The last token of an answer predicts nothing, and none before it sees it: it is left out. A
    question's keys and values are projected once; its answers ask them as one block of queries.
    """
    ids = with_first_token(answers.ids, config.bos_token_id)
    following = answers.mask[:, 1:]
    packing = Packing.of(following, answers.capacity)
    tokens = answers.question.new_zeros(len(questions.states))
    tokens = tokens.index_add(0, answers.question, following.long().sum(1))
    block = int(tokens.max()) if answers.block is None else answers.block
    places = torch.arange(block, device=tokens.device)
    asking = Packing.of(places < tokens[:, None], answers.capacity)
    states = looking_states(
        decoder.bert,
        SharedEmbeddings.of(decoder.bert, ids[:, :-1], packing).own(),
        packing,
        questions.states,
        causal=True,
        asking=asking,
        image_mask=questions.mask,
    )
    return states, packing.pack(ids[:, 1:]), packing
