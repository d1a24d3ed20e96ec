"""Retrieval: a contrastive shortlist, re-ranked by matching."""

import time
from typing import Any

import numpy as np
import torch

from blip_model.pair_scores import matching_logits
from engine.config import ConfigError, EvaluateSection
from engine.data.evaluation_set import EvaluationSet
from engine.evaluation.metrics import chance_recalls, retrieval_recalls
from engine.inference import LoadedBlip
from engine.progress import Progress

NOT_LISTED = -100.0
# A pair is some ten tokens of text; a picture, of which a batch has as many, is hundreds.
PAIRS_OF_A_PICTURE = 8


@torch.no_grad()
def evaluate_retrieval(
    blip: LoadedBlip, pairs: EvaluationSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Recalls on held-out pairs.

    Every text's and every picture's best `shortlist` candidates by similarity get the match logit
    plus the similarity as score (the original's evaluation, in which each direction has a list of
    its own); all others follow in their order by similarity. A `shortlist` of 0 leaves all of
    them in that order, for models that are trained by contrast alone.

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
    both = [similarity.float()] * 2
    if settings.shortlist:
        lists = [shortlisted(similarity, settings.shortlist, dim) for dim in (0, 1)]
        listed, size = lists[0] | lists[1], settings.batch_size
        matched = match_listed(blip, ids, mask, image_states, listed, size)
        both = [torch.where(one, matched, NOT_LISTED) + similarity.float() for one in lists]
    for scores in both:
        _refuse_not_finite(scores)
    to_image, to_text = (scores.cpu().numpy() for scores in both)
    owner = np.asarray(pairs.caption_image)
    by_similarity = retrieval_recalls(similarity.float().cpu().numpy(), owner)
    metrics = retrieval_recalls(to_image, owner, to_text=to_text)
    metrics |= {f"{name}_without_matching": value for name, value in by_similarity.items()}
    return {
        "task": "retrieval",
        "metrics": metrics,
        "chance": chance_recalls(owner, len(pairs.keys)),
        "count": len(pairs.keys),
        "bad_samples": len(pairs.bad),
        "seconds": time.perf_counter() - begun,
        "examples": _examples(pairs, to_image),
    }


def _refuse_not_finite(scores: torch.Tensor) -> None:
    if not scores.isfinite().all():
        raise ConfigError("the model's scores are not finite: its weights are no good")


def shortlisted(similarity: torch.Tensor, k: int, dim: int) -> torch.Tensor:
    """[images, texts] bool: the best k pictures of each text (dim 0) or texts of each picture."""
    best = similarity.topk(min(k, similarity.shape[dim]), dim).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(dim, best, True)


def match_listed(
    blip: LoadedBlip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    listed: torch.Tensor,
    batch_size: int,
) -> torch.Tensor:
    """Match logits [images, texts] where listed, 0 elsewhere, each pair once.

    Pairs are gone through picture by picture: its keys and values are projected for all texts of
    a batch together, and texts are not padded. The original does both for every pair anew.
    """
    logits = torch.zeros(listed.shape, device=listed.device)
    pictures, texts = listed.nonzero(as_tuple=True)
    progress = Progress("matched", "pairs", len(pictures))
    at_once = PAIRS_OF_A_PICTURE * batch_size
    for start in range(0, len(pictures), at_once):
        image, text = pictures[start : start + at_once], texts[start : start + at_once]
        mine, counts = image.unique_consecutive(return_counts=True)
        # Padding only as far as this batch needs it.
        longest = int(mask[text].sum(1).max())
        given = ids[text, :longest], mask[text, :longest], image_states.index_select(0, mine)
        with blip.autocast():
            found = matching_logits(blip.model, *given, counts)
        logits[image, text] = found[:, 1]
        progress.add(len(image))
    return logits


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
