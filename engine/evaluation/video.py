"""Retrieval of videos and questions about them: what is done with pictures, by several frames."""

from typing import Any

import numpy as np
import torch

from engine.config import EvaluateSection
from engine.data.evaluation_set import EvaluationSet
from engine.data.question_set import QuestionSet
from engine.evaluation.answer_accuracy import exact_accuracy
from engine.evaluation.metrics import chance_recalls, retrieval_ranks, retrieval_recalls
from engine.evaluation.retrieval import cases, examples, score_pairs
from engine.evaluation.vqa import evaluate_vqa
from engine.inference import LoadedBlip


@torch.no_grad()
def evaluate_video_retrieval(
    blip: LoadedBlip, videos: EvaluationSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Recalls, median and mean ranks on held-out videos, as the original's video evaluation.

    Frames' features are averaged for the shortlist, their tokens stand one after the other for
    matching. The original reports the median rank of videos alone.

    Returns:
        metrics, chance, count and examples, as `results.json` holds them.

    Raises:
        ConfigError: no usable video, one that is not, or scores that are not finite.
    """
    scores, count = score_pairs(blip, videos, settings), len(videos.keys)
    if scores is None:
        return {}
    owner = np.asarray(videos.caption_image)
    metrics = retrieval_recalls(scores.to_image, owner, to_text=scores.to_text)
    chance = chance_recalls(owner, count)
    ranks = retrieval_ranks(scores.to_image, owner, scores.to_text)
    alike = np.zeros_like(scores.to_image)
    for way, found, drawn in zip(
        ("text_to_image", "image_to_text"), ranks, retrieval_ranks(alike, owner), strict=True
    ):
        metrics |= {f"{way}_median_rank": float(np.median(found))}
        metrics |= {f"{way}_mean_rank": float(found.mean())}
        chance |= {f"{way}_mean_rank": float(drawn.mean())}
    alone = retrieval_recalls(scores.similarity, owner)
    metrics |= {f"{name}_without_matching": value for name, value in alone.items()}
    return {
        "metrics": _of_videos(metrics),
        "chance": _of_videos(chance),
        "count": count,
        "frames": videos.frames,
        "examples": examples(videos, scores.to_image),
        "cases": cases(videos, scores.to_image),
    }


def _of_videos(named: dict[str, float]) -> dict[str, float]:
    return {name.replace("image", "video"): value for name, value in named.items()}


def evaluate_video_qa(
    blip: LoadedBlip, questions: QuestionSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Answers to questions about videos, and the share of them that are exactly right.

    Chance is that share for the commonest answer.

    Returns:
        As `evaluate_vqa`.

    Raises:
        ConfigError: as `evaluate_vqa`, and for a video that cannot be used.
    """
    results = evaluate_vqa(blip, questions, settings, accuracy=exact_accuracy)
    return results | {"frames": questions.frames}
