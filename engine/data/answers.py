"""Answers of a batch's questions as tensors."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from blip_model.answers import Answers
from engine.data.bounds import LENGTHS, bounded, up
from engine.data.tokenizer import Tokenizer

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
            make their number a multiple of that of the questions.
    """
    if not any(groups):
        return None
    texts = [text for group in groups for text, _ in group]
    weights = [weight for group in groups for _, weight in group]
    owners = [question for question, group in enumerate(groups) for _ in group]
    if few_shapes:
        spare = -len(texts) % len(groups)
        texts, weights = texts + [""] * spare, weights + [0.0] * spare
        owners += [len(groups) - 1] * spare
    ids, mask = tokenizer.encode(texts, max_tokens)
    question = torch.tensor(owners)
    answers = Answers(ids, mask, question, torch.tensor(weights))
    if not few_shapes:
        return answers
    ids, mask, capacity = bounded(ids, mask, max_tokens)
    tokens = torch.zeros(len(groups), dtype=torch.int64)
    block = int(tokens.index_add(0, question, mask[:, 1:].sum(1)).max())
    places = {"capacity": capacity - len(ids), "block": up(block, LENGTHS)}
    return replace(answers, ids=ids, mask=mask, **places)
