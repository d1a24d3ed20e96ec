"""Captioning of held-out pictures."""

import math
from pathlib import Path
from typing import Any

import torch

from engine.config import EvaluateSection
from engine.data.evaluation_set import EvaluationSet
from engine.encoding import refuse_not_finite
from engine.evaluation.cases import Case, Picture, best_and_worst
from engine.evaluation.meteor import find_meteor, meteor
from engine.evaluation.metrics import bleu, cider_d, cider_d_each, word_f1
from engine.evaluation.spice import find_spice, spice
from engine.inference import LoadedBlip


@torch.no_grad()
def evaluate_captions(
    blip: LoadedBlip, pairs: EvaluationSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Beam-search captions of every picture against its own, as they are stored.

    Where the list names domains (NoCaps), there are figures of each (`cider_in_domain`), each a
    set of its own, document frequencies included. Chance is the score of the same captions dealt to
    other pictures; empty for a single one. Pictures without a caption of their own, as those of
    hidden test sets are, are captioned and count in no figure.

    Returns:
        metrics, chance, count and examples, as `results.json` holds them, and the captions
        as the servers of COCO and NoCaps take them.

    Raises:
        ConfigError: no usable pair, a model whose states are not finite, or METEOR or SPICE asked
            for where it cannot be run.
    """
    if settings.meteor:
        find_meteor()
    by_spice = find_spice(Path(settings.spice)) if settings.spice is not None else None
    progress = pairs.progress("captioned", "pairs", settings.batch_size)
    written: list[list[str]] = []
    for views in pairs.views(settings.batch_size):
        with blip.autocast():
            states = blip.model.encode_image(views.to(blip.device))
        refuse_not_finite(states, "states")
        written.append(
            blip.caption_states(
                states,
                prompt=settings.prompt,
                num_beams=settings.num_beams,
                max_length=settings.max_length,
                min_length=settings.min_length,
            )
        )
        progress.add(len(states))
    generated = pairs.gathered(written)
    if not pairs.share.here.is_main:
        return {}
    references: list[list[str]] = [[] for _ in pairs.keys]
    for text, picture in zip(pairs.raw_captions, pairs.caption_image, strict=True):
        references[picture].append(text)
    known = [number for number, group in enumerate(references) if group]
    texts, human = [generated[number] for number in known], [references[n] for n in known]
    dealt = texts[1:] + texts[:1]
    scores = _scores(texts, human) | _by_domain(pairs, generated, references) if known else {}
    if settings.meteor and known:
        scores["meteor"] = meteor(texts, human)
    examples: list[dict[str, Any]] = [
        {"key": key, "image_id": image_id, "generated": text, "references": theirs}
        for key, image_id, text, theirs in zip(
            pairs.keys, pairs.image_ids, generated, references, strict=True
        )
    ]
    if by_spice and known:
        each = spice(texts, human, by_spice)
        scores["spice"] = math.fsum(each) / len(each)
        for number, score in zip(known, each, strict=True):
            examples[number]["spice"] = score
    # A server misses what is not there, so pictures that cannot be shown are there without words.
    captions = dict(zip(pairs.image_ids, generated, strict=True))
    captions |= {image_id: "" for image_id in pairs.bad_ids if image_id not in captions}
    return {
        "predictions": [
            {"image_id": image_id, "caption": text} for image_id, text in captions.items()
        ],
        "metrics": scores,
        "chance": _scores(dealt, human) if len(dealt) > 1 else {},
        "count": len(generated),
        "examples": examples,
        "cases": _cases(pairs, known, texts, human) if known else None,
    }


def _cases(
    pairs: EvaluationSet, known: list[int], texts: list[str], references: list[list[str]]
) -> dict[str, Any]:
    """Pictures that have captions by the CIDEr-D of what was written."""
    each = cider_d_each(texts, references)

    def described(place: int) -> tuple[Case, list[Picture]]:
        case = {"score": f"CIDEr-D {each[place]:.2f}", "output": texts[place]}
        return case | {"truth": references[place]}, [("", known[place], False)]

    return best_and_worst(pairs, each, known, described)


def _scores(candidates: list[str], references: list[list[str]]) -> dict[str, float]:
    return {
        "cider": cider_d(candidates, references),
        **{f"bleu{n}": bleu(candidates, references, n) for n in (1, 2, 3, 4)},
        "word_f1": word_f1(candidates, references),
    }


def _by_domain(
    pairs: EvaluationSet, candidates: list[str], references: list[list[str]]
) -> dict[str, float]:
    found = {}
    for domain in sorted({domain for domain in pairs.domains if domain}):
        rows = [n for n, name in enumerate(pairs.domains) if name == domain and references[n]]
        if not rows:
            continue
        chosen = [candidates[row] for row in rows], [references[row] for row in rows]
        scores, name = _scores(*chosen), domain.replace("-", "_")
        found |= {f"{metric}_{name}": value for metric, value in scores.items()}
    return found
