"""Retrieval: a contrastive shortlist, re-ranked by matching."""

import time
from typing import Any

import numpy as np
import torch

from engine.config import ConfigError, EvaluateSection
from engine.data.evaluation_set import EvaluationSet
from engine.evaluation.metrics import chance_recalls, retrieval_recalls
from engine.inference import LoadedBlip
from engine.progress import Progress

NOT_LISTED = -100.0


@torch.no_grad()
def evaluate_retrieval(
    blip: LoadedBlip, pairs: EvaluationSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Recalls on held-out pairs.

    Every text's and every picture's best `shortlist` candidates by similarity get the match logit
    plus the similarity as score (the original's evaluation); all others follow in their order by
    similarity.

    Returns:
        metrics, chance, count, seconds and examples, as `results.json` holds them.

    Raises:
        ConfigError: no usable pair, or a model whose scores are not finite.
    """
    begun = time.perf_counter()
    states = []
    with blip.autocast():
        for views in pairs.views(settings.batch_size):
            states.append(blip.model.encode_image(views.to(blip.device)))
        image_states = torch.cat(states)
        image_features = blip.model.image_feature(image_states)
        ids, mask = blip.encode(pairs.captions)
        parts = zip(ids.split(settings.batch_size), mask.split(settings.batch_size), strict=True)
        text_features = torch.cat(
            [blip.model.text_feature(blip.model.encode_text(*part)) for part in parts]
        )
    similarity = image_features @ text_features.T
    _refuse_not_finite(similarity)
    listed = shortlisted(similarity, settings.shortlist)
    scores = rerank(blip, ids, mask, image_states, similarity, listed, settings.batch_size)
    _refuse_not_finite(scores)
    scores, owner = scores.cpu().numpy(), np.asarray(pairs.caption_image)
    by_similarity = retrieval_recalls(similarity.float().cpu().numpy(), owner)
    metrics = retrieval_recalls(scores, owner)
    metrics |= {f"{name}_without_matching": value for name, value in by_similarity.items()}
    return {
        "task": "retrieval",
        "metrics": metrics,
        "chance": chance_recalls(owner, len(pairs.keys)),
        "count": len(pairs.keys),
        "bad_samples": len(pairs.bad),
        "seconds": time.perf_counter() - begun,
        "examples": _examples(pairs, scores),
    }


def _refuse_not_finite(scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise ConfigError("the model's scores are not finite: its weights are no good")


def shortlisted(similarity: torch.Tensor, k: int) -> torch.Tensor:
    """[images, texts] bool: among the best k of its row or of its column."""
    listed = torch.zeros_like(similarity, dtype=torch.bool)
    listed.scatter_(1, similarity.topk(min(k, similarity.shape[1]), 1).indices, True)
    return listed.scatter_(0, similarity.topk(min(k, similarity.shape[0]), 0).indices, True)


def rerank(
    blip: LoadedBlip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    similarity: torch.Tensor,
    listed: torch.Tensor,
    batch_size: int,
) -> torch.Tensor:
    """Scores [images, texts]: match logit + similarity where listed, similarity - 100 elsewhere.

    The original scores all others -100 alike, which leaves their order to chance.
    """
    scores = similarity.float() + NOT_LISTED
    pictures, texts = listed.nonzero(as_tuple=True)
    progress = Progress("matched", "pairs", len(pictures))
    for start in range(0, len(pictures), batch_size):
        image, text = pictures[start : start + batch_size], texts[start : start + batch_size]
        # Padding only as far as this batch needs it.
        longest = int(mask[text].sum(1).max())
        with blip.autocast():
            logits = blip.model.match(
                ids[text, :longest], mask[text, :longest], image_states.index_select(0, image)
            )
        scores[image, text] = logits[:, 1] + similarity[image, text]
        progress.add(len(image))
    return scores


def _examples(pairs: EvaluationSet, scores: np.ndarray, count: int = 24) -> list[dict[str, Any]]:
    chosen = np.linspace(0, len(pairs.captions) - 1, min(count, len(pairs.captions))).astype(int)
    examples = []
    for text in chosen.tolist():
        column, owner = scores[:, text], pairs.caption_image[text]
        order = np.argsort(-column, kind="stable")
        examples.append(
            {
                "query": pairs.captions[text],
                "truth": pairs.keys[owner],
                "rank": order.tolist().index(owner) + 1,
                "top": [pairs.keys[image] for image in order[:5]],
                "scores": [float(column[image]) for image in order[:5]],
            }
        )
    return examples
