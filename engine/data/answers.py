"""Answers of a batch's questions as tensors."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from blip_model.answers import Answers
from engine.data.bounds import bounded, up
from engine.data.tokenizer import Tokenizer

PARTS, LEAST = 4, 4
Weighted = tuple[tuple[str, float], ...]


def weighted(
    groups: Sequence[Weighted], tokenizer: Tokenizer, max_tokens: int, few_shapes: bool
) -> Answers | None:
    """Answers as they are, uncleaned; None where nothing was asked.

    Args:
        groups: of each of the batch's samples its answers with their weights.
        tokenizer: of the answers.
        max_tokens: kept of one.
        few_shapes: bring them to one of few shapes, as `bounded` does: empty ones of weight 0
            make them 1, 2, 4, ... times as many as questions, their places are a quarter, a half,
            ... of all, and those of one question 4, 8, 16, ...
    """
    if not any(groups):
        return None
    texts = [text for group in groups for text, _ in group]
    weights = [weight for group in groups for _, weight in group]
    owners = [question for question, group in enumerate(groups) for _ in group]
    if few_shapes:
        spare = len(groups) * _power_of_two(-(-len(texts) // len(groups))) - len(texts)
        texts, weights = texts + [""] * spare, weights + [0.0] * spare
        owners += [len(groups) - 1] * spare
    ids, mask = tokenizer.encode(texts, max_tokens)
    question = torch.tensor(owners)
    answers = Answers(ids, mask, question, torch.tensor(weights))
    if not few_shapes:
        return answers
    ids, mask, _ = bounded(ids, mask, max_tokens)
    of_answer = mask[:, 1:].sum(1)
    of_question = torch.zeros(len(groups), dtype=torch.int64).index_add(0, question, of_answer)
    places = len(ids) * (ids.shape[1] - 1)
    capacity = min(up(int(of_answer.sum()), -(-places // PARTS)), places)
    block = max(LEAST, _power_of_two(int(of_question.max())))
    return replace(answers, ids=ids, mask=mask, capacity=capacity, block=block)


def _power_of_two(value: int) -> int:
    """The least that is not below."""
    return 1 << (value - 1).bit_length()
