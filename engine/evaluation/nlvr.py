"""NLVR2: sentences about two held-out pictures, judged true or false."""

from typing import Any

import numpy as np
import torch

from engine.config import EvaluateSection
from engine.data.statements import LABELS, StatementSet
from engine.encoding import refuse_not_finite
from engine.evaluation.cases import Case, Picture, best_and_worst
from engine.inference import LoadedBlip

EXAMPLES = 24


@torch.no_grad()
def evaluate_nlvr(
    blip: LoadedBlip, statements: StatementSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Accuracy on held-out statements.

    Chance is the accuracy of always giving the label that more of the statements have.

    Returns:
        metrics, chance, count and examples, as `results.json` holds them; predictions, as
        `predictions.json` does: `[{"identifier": ..., "answer": "True" or "False"}]`.

    Raises:
        ConfigError: no usable statement, or a model whose scores are not finite.
    """
    longest, judged = blip.model.config.max_positions, []
    progress = statements.progress("judged", "statements", settings.batch_size)
    for views in statements.views(settings.batch_size):
        texts = statements.sentences[-len(views) :]
        ids, mask = (part.to(blip.device) for part in blip.tokenizer.encode(texts, longest))
        with blip.autocast():
            judged.append(blip.model.judge(views.to(blip.device), ids, mask))
        progress.add(len(views))
    logits = torch.stack(statements.gathered(judged))
    if not statements.share.here.is_main:
        return {}
    refuse_not_finite(logits, "scores")
    answers, labels = logits.argmax(1).numpy(), np.asarray(statements.labels)
    true = logits.softmax(1)[:, 1].tolist()
    words = {number: name for name, number in LABELS.items()}
    return {
        "metrics": {"accuracy": float((answers == labels).mean())},
        "chance": {"accuracy": float(max(labels.mean(), 1 - labels.mean()))},
        "count": len(labels),
        "examples": [
            {
                "key": statements.keys[n],
                "sentence": statements.sentences[n],
                "label": words[statements.labels[n]],
                "true": true[n],
            }
            for n in range(min(EXAMPLES, len(labels)))
        ],
        "cases": _cases(statements, true),
        "predictions": [
            {"identifier": key, "answer": words[answer]}
            for key, answer in zip(statements.keys, answers.tolist(), strict=True)
        ],
    }


def _cases(statements: StatementSet, true: list[float]) -> dict[str, Any]:
    """Statements by the probability of what they are."""
    words = {number: name.lower() for name, number in LABELS.items()}
    labels = statements.labels
    right = [p if label else 1 - p for p, label in zip(true, labels, strict=True)]

    def described(number: int) -> tuple[Case, list[Picture]]:
        case = {"score": f"{right[number]:.1%} sure of what is right"}
        case |= {"asked": statements.sentences[number], "truth": [words[labels[number]]]}
        case["output"] = words[int(true[number] > 0.5)]
        return case, [("left", number, False), ("right", number, True)]

    return best_and_worst(statements, right, range(len(right)), described)
