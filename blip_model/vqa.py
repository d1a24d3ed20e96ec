"""Visual question answering: a question looks at the picture, its answers look at the question."""

from dataclasses import replace
from functools import partial

import torch

from blip_model.answers import (
    Answers,
    QuestionStates,
    answer_losses,
    packed_answer_losses,
    packed_answering,
)
from blip_model.beams import Beams
from blip_model.blip import Blip, with_first_token
from blip_model.config import BlipConfig
from blip_model.generate import captions
from blip_model.med import TextDecoder, initialise_text
from blip_model.packed_text import SharedEmbeddings, looking_states
from blip_model.packing import Packing


class BlipVqa(Blip):
    """BLIP that answers questions: a text encoder and a decoder that share nothing.

    The decoder looks at the question's states instead of a picture's, so its cross-attention is
    as wide as the text (the original's `blip_vqa.py`).

    Args:
        config: sizes.
        label_smoothing: of the loss, and of the likelihoods that answers are ranked by.
        plain: compute by the definitions, padded, as `BlipPretrain` does.
    """

    def __init__(
        self, config: BlipConfig, *, label_smoothing: float = 0.1, plain: bool = False
    ) -> None:
        super().__init__(config, text_decoder=False, heads=False)
        width, heads = config.text_width, config.text_heads
        looking_at_text = replace(config, vision_width=width, vision_heads=heads)
        self.text_decoder = TextDecoder(looking_at_text, None)
        self.text_decoder.apply(partial(initialise_text, std=config.initial_std))
        self.label_smoothing, self.plain = label_smoothing, plain

    def forward(
        self,
        image: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        answers: Answers,
        *,
        capacity: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """loss_lm of a micro-batch: sum(weight * summed token loss) / questions.

        Args:
            image: [B, 3, H, W].
            input_ids: [B, L] questions, first token replaced by [ENC].
            attention_mask: [B, L].
            answers: of the questions.
            capacity: of the questions' tokens, as in `BlipPretrain.forward`.
        """
        states = self.encode_image(image)
        questions = self.read_questions(input_ids, attention_mask, states, capacity)
        parts = (self.text_decoder, self.config, answers, questions, self.label_smoothing)
        if not self.plain:
            return {"loss_lm": packed_answering(*parts)}
        return {"loss_lm": (answers.weight * answer_losses(*parts)).sum() / len(image)}

    def read_questions(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor,
        image_states: torch.Tensor,
        capacity: int | None = None,
    ) -> QuestionStates:
        """Questions [B, L], each with its picture [B, P, vision width]."""
        ids, text = with_first_token(ids, self.config.enc_token_id), self.text_encoder
        if self.plain:
            return QuestionStates(text(ids, mask, image_states), mask.bool())
        packing = Packing.of(mask, capacity)
        states = SharedEmbeddings.of(text, ids, packing).own()
        states = looking_states(text, states, packing, image_states, causal=False)
        return QuestionStates(packing.pad(states), packing.mask)

    @torch.no_grad()
    def rank(
        self, questions: QuestionStates, ids: torch.Tensor, mask: torch.Tensor, shortlist: int
    ) -> torch.Tensor:
        """The most likely of given answers to each question.

        The `shortlist` answers whose first tokens are the likeliest, among equal ones those that
        stand first, are told apart by the likelihood of all their tokens. Label smoothing stays
        in it, as in the original.

        Args:
            questions: B of them.
            ids: [N, T] answers, [CLS] first.
            mask: [N, T].
            shortlist: k.

        Returns:
            [B] int64 numbers of answers.
        """
        count, shortlist = len(questions.states), min(shortlist, len(ids))
        start = ids.new_full((count, 1), self.config.bos_token_id)
        logits = self.text_decoder(start, None, questions.states, questions.mask)[:, 0].float()
        order = logits[:, ids[:, 1]].argsort(stable=True, dim=1, descending=True)
        listed = order[:, :shortlist]
        rows = listed.flatten()
        longest = int(mask[rows].sum(1).max())
        question = torch.arange(count, device=ids.device).repeat_interleave(shortlist)
        unweighted = torch.ones(len(rows), device=ids.device)
        answers = Answers(ids[rows, :longest], mask[rows, :longest], question, unweighted)
        losses = answer_losses if self.plain else packed_answer_losses
        parts = (self.text_decoder, self.config, answers, questions, self.label_smoothing)
        best = losses(*parts).view(count, shortlist).argmin(1, keepdim=True)
        return listed.gather(1, best)[:, 0]

    @torch.no_grad()
    def generate(self, questions: QuestionStates, how: Beams) -> torch.Tensor:
        """Free answers: [B, max_length] ids, [DEC] first, padded after [SEP].

        Questions of equal length are answered together, so that no answer looks at padding; in the
        original, those of a batch do.
        """
        mask, device = questions.mask, questions.mask.device
        lengths = mask.sum(1)
        shape = (len(mask), how.max_length)
        written = torch.full(shape, self.config.pad_token_id, device=device)
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            start = rows.new_full((len(rows), 1), self.config.bos_token_id)
            states = questions.states[rows, :length]
            written[rows] = captions(self, states, start, how, record=False)[:, 0]
        return written
