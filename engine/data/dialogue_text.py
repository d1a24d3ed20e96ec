"""Rounds of dialogues as texts that the network reads: one for each answer.

    [CLS] caption [SEP] question answer [SEP] ... [SEP] question ANSWER [SEP]

The order is VisDial's; what keeps the lines apart, and what is left out of long ones, is ours.
"""

from collections.abc import Sequence
from itertools import chain

import torch

from engine.data.captions import clean_question
from engine.data.counter import Draws
from engine.data.dialogues import WRONG, open_dialogues
from engine.data.images import BadSample
from engine.data.loader import CROP, TEXT, Collate, Sample, Slots
from engine.data.source import RawSample
from engine.data.tokenizer import Tokenizer


def dialogue_rows(
    tokenizer: Tokenizer, lines: Sequence[str], answers: Sequence[str], max_tokens: int
) -> list[list[int]]:
    """Ids of a round with each of some answers.

    Too long ones lose their oldest rounds, all rows the same ones; then the end of the caption;
    then that of the answer.

    Args:
        tokenizer: of all texts.
        lines: the caption; question and answer of each earlier round; the question.
        answers: to it.
        max_tokens: of a row.
    """
    pieces = tokenizer.pieces([*lines, *answers])
    caption, *said, question = pieces[: len(lines)]
    answers_ids, end = pieces[len(lines) :], [tokenizer.sep_token_id]
    rounds = [asked + told + end for asked, told in zip(said[::2], said[1::2], strict=True)]
    # [CLS], and [SEP] after caption and answer.
    space = max(0, max_tokens - 3 - len(question) - max(map(len, answers_ids)))
    caption = caption[:space]
    space -= len(caption)
    kept: list[list[int]] = []
    for turn in reversed(rounds):
        if len(turn) > space:
            break
        space -= len(turn)
        kept.insert(0, turn)
    head = [tokenizer.cls_token_id, *caption, *end, *chain(*kept), *question]
    return [[*head, *answer][: max_tokens - 1] + end for answer in answers_ids]


def clean_line(text: str, max_words: int) -> str:
    """A caption, a question or an answer, cleaned as questions are; may be empty."""
    try:
        return clean_question(text, max_words)
    except BadSample:
        return ""


def clean_lines(raw: RawSample, max_words: int) -> list[str]:
    """Those of a round, see `Dialogues.read`."""
    return [clean_line(line, max_words) for line in raw.captions[0].split("\n")]


class DialogueSlots(Slots):
    """Slot number to a round of a dialogue, with the right answer first and some wrong ones."""

    open_source = staticmethod(open_dialogues)

    def content(self, raw: RawSample, slot: int) -> tuple[torch.Tensor, str]:
        """Picture [3, H, H] uint8 and the round's lines, as the slot's counters augment them."""
        lines = clean_lines(raw, self.data.max_words)
        return self.view(raw.image, slot, Draws(self.seed, CROP, slot)), "\n".join(lines)

    def answers(self, raw: RawSample, slot: int) -> tuple[tuple[str, float], ...]:
        """The right one and wrong ones; where there are too few of them, some come twice.

        What reads like the right one ("yes." beside "Yes!") is not taught as wrong.
        """
        draws, left, drawn = Draws(self.seed, TEXT, slot), [], []
        read = [(clean_line(text, self.data.max_words), right) for text, right in raw.answers]
        true = [answer for answer in read if answer[1]]
        wrong = [text for text, right in read if not right]
        wrong = [text for text in wrong if (text, 1.0) not in true] or wrong
        for _ in range(WRONG):
            left = left or list(wrong)
            drawn.append((left.pop(draws.below(len(left))), 0.0))
        return tuple(true + drawn)

    def collate(self, *settings: object) -> Collate:
        """See `Slots.collate`."""
        return DialogueCollate(*settings)


class DialogueCollate(Collate):
    """Rounds to a batch with a text for each of their answers."""

    def texts(self, samples: list[Sample], max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of every round with each of its answers, [B A, L] int64 each."""
        rows: list[list[int]] = []
        for sample in samples:
            answers = [text for text, _ in sample.answers]
            rows += dialogue_rows(self.tokenizer, sample.caption.split("\n"), answers, max_tokens)
        return self.tokenizer.pad(rows)

    def targets(self, samples: list[Sample], max_tokens: int) -> tuple[torch.Tensor, None]:
        """1 for the texts with the right answer; the answers stand in the texts."""
        right = [int(right) for sample in samples for _, right in sample.answers]
        return torch.tensor(right), None
