"""Retrieval: a contrastive shortlist, re-ranked by matching."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from blip_model.pair_scores import matching_logits
from engine.config import EvaluateSection
from engine.data.evaluation_set import EvaluationSet
from engine.encoding import refuse_not_finite
from engine.evaluation.cases import Case, Picture, best_and_worst
from engine.evaluation.metrics import chance_recalls, retrieval_recalls
from engine.inference import LoadedBlip
from engine.progress import Progress
from engine.share import Share

NOT_LISTED = -100.0
# A pair is some ten tokens of text; a picture, of which a batch has as many, is hundreds.
PAIRS_OF_A_PICTURE = 8


@dataclass(frozen=True)
class Scores:
    """Scores of pictures with texts, [images, texts] each.

    Attributes:
        to_image: by which pictures are found.
        to_text: by which texts are found.
        similarity: of the contrast alone.
    """

    to_image: np.ndarray
    to_text: np.ndarray
    similarity: np.ndarray


def evaluate_retrieval(
    blip: LoadedBlip, pairs: EvaluationSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Recalls on held-out pairs, by the scores of `score_pairs`.

    Returns:
        metrics, chance, count, examples and cases, as `results.json` and `cases.json`
        hold them.

    Raises:
        ConfigError: no usable pair, or a model whose scores are not finite.
    """
    scores = score_pairs(blip, pairs, settings)
    if scores is None:
        return {}
    owner = np.asarray(pairs.caption_image)
    by_similarity = retrieval_recalls(scores.similarity, owner)
    metrics = retrieval_recalls(scores.to_image, owner, to_text=scores.to_text)
    metrics |= {f"{name}_without_matching": value for name, value in by_similarity.items()}
    return {
        "metrics": metrics,
        "chance": chance_recalls(owner, len(pairs.keys)),
        "count": len(pairs.keys),
        "examples": examples(pairs, scores.to_image),
        "cases": cases(pairs, scores.to_image),
    }


@torch.no_grad()
def score_pairs(blip: LoadedBlip, pairs: EvaluationSet, settings: EvaluateSection) -> Scores | None:
    """Scores of all pictures, or videos, with all texts; None but on the first process.

    Collective.

    Every text's and every picture's best `shortlist` candidates by similarity get the match logit
    plus the similarity as score (the original's evaluation, in which each direction has a list of
    its own); all others follow in their order by similarity. A `shortlist` of 0 leaves all of
    them in that order, for models that are trained by contrast alone.

    Raises:
        ConfigError: no usable pair, or a model whose scores are not finite.
    """
    states, seen = [], []
    with blip.autocast():
        for views in pairs.views(settings.batch_size):
            states.append(blip.model.encode_image(views.to(blip.device)))
            seen.append(blip.model.image_feature(states[-1], pairs.frames or 1))
    # Features of all pictures are everywhere, their states where they were made.
    image_features = torch.stack(pairs.gathered(seen)).to(blip.device)
    ids, mask = blip.encode(pairs.captions, pairs.max_words, pairs.max_tokens)
    text_features = encode_texts(blip, ids, mask, settings.batch_size, pairs.share)
    similarity = image_features @ text_features.T
    refuse_not_finite(similarity, "scores")
    both = [similarity.float()] * 2
    if settings.shortlist:
        lists = [shortlisted(similarity, settings.shortlist, dim) for dim in (0, 1)]
        listed, size = lists[0] | lists[1], settings.batch_size
        matched = _match_own(blip, pairs, (ids, mask), states, listed, size)
        both = [torch.where(one, matched, NOT_LISTED) + similarity.float() for one in lists]
    if not pairs.share.here.is_main:
        return None
    for scores in both:
        refuse_not_finite(scores, "scores")
    return Scores(*(scores.cpu().numpy() for scores in (*both, similarity.float())))


def shortlisted(similarity: torch.Tensor, k: int, dim: int) -> torch.Tensor:
    """[images, texts] bool: the best k pictures of each text (dim 0) or texts of each picture."""
    best = similarity.topk(min(k, similarity.shape[dim]), dim).indices
    return torch.zeros_like(similarity, dtype=torch.bool).scatter_(dim, best, True)


def encode_texts(
    blip: LoadedBlip, ids: torch.Tensor, mask: torch.Tensor, batch_size: int, share: Share
) -> torch.Tensor:
    """Unit vectors [T, E] of all texts; each process encodes its share of them. Collective."""
    mine = {}
    for part in share.parts(len(ids), batch_size):
        given = ids[part.start : part.stop], mask[part.start : part.stop]
        with blip.autocast():
            mine[part.start] = blip.model.text_feature(blip.model.encode_text(*given)).cpu()
    return torch.cat(list(share.gathered(mine).values())).to(blip.device)


def _match_own(
    blip: LoadedBlip,
    pairs: EvaluationSet,
    texts: tuple[torch.Tensor, torch.Tensor],
    states: list[torch.Tensor],
    listed: torch.Tensor,
    batch_size: int,
) -> torch.Tensor:
    """`match_listed` of all pictures: each process has those whose states it holds. Collective."""
    own = [listed[one.positions.start : one.positions.stop] for one in pairs.own]
    total = sum(int(some.sum()) for some in own)
    progress = Progress("matched", "pairs", total, pairs.share.here.is_main)
    mine = {}
    for one, some, chosen in zip(pairs.own, states, own, strict=True):
        held = some[one.places]
        mine[one.number] = match_listed(blip, *texts, held, chosen, batch_size, progress)[
            chosen
        ].cpu()
    logits = torch.zeros(listed.shape, device=listed.device)
    found = pairs.share.gathered(mine).values()
    logits[listed] = torch.cat(list(found)).to(listed.device)
    return logits


def match_listed(
    blip: LoadedBlip,
    ids: torch.Tensor,
    mask: torch.Tensor,
    image_states: torch.Tensor,
    listed: torch.Tensor,
    batch_size: int,
    progress: Progress,
) -> torch.Tensor:
    """Match logits [images, texts] where listed, 0 elsewhere, each pair once.

    Pairs are gone through picture by picture: its keys and values are projected for all texts of
    a batch together, and texts are not padded. The original does both for every pair anew.
    """
    logits = torch.zeros(listed.shape, device=listed.device)
    pictures, texts = listed.nonzero(as_tuple=True)
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


def examples(pairs: EvaluationSet, scores: np.ndarray, count: int = 24) -> list[dict[str, Any]]:
    """Some texts with the best pictures by `scores` [images, texts], as `results.json` has them."""
    chosen = np.linspace(0, len(pairs.captions) - 1, min(count, len(pairs.captions))).astype(int)
    shown = []
    for text in chosen.tolist():
        column, owner = scores[:, text], pairs.caption_image[text]
        order = np.argsort(-column, kind="stable")
        shown.append(
            {
                "query": pairs.captions[text],
                "truth": pairs.keys[owner],
                "rank": order.tolist().index(owner) + 1,
                "top": [pairs.keys[image] for image in order[:5]],
                "scores": [float(column[image]) for image in order[:5]],
            }
        )
    return shown


def cases(pairs: EvaluationSet, scores: np.ndarray) -> dict[str, Any]:
    """Texts by the rank of their picture, and of one rank by how far it is ahead of the others."""
    owner, texts = np.asarray(pairs.caption_image), np.arange(len(pairs.captions))
    own = scores[owner, texts]
    # Without a copy, which may be as large as half the memory.
    scores[owner, texts] = -np.inf
    first = scores.argmax(0)
    margins, ranks = own - scores[first, texts], (scores >= own).sum(0) + 1
    scores[owner, texts] = own

    def described(text: int) -> tuple[Case, list[Picture]]:
        right = ("right", int(owner[text]), False)
        case = {"asked": pairs.captions[text]}
        case["score"] = f"rank {ranks[text]} of {len(scores)}"
        found = ("next" if ranks[text] == 1 else "found first", int(first[text]), False)
        return case, [right, found] if len(scores) > 1 else [right]

    # Where there is one picture alone, it is ahead of nothing.
    by = list(zip((-ranks).tolist(), margins.tolist(), strict=True))
    return best_and_worst(pairs, by, owner.tolist(), described)
