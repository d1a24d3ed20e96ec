"""Captioning of held-out pictures."""

import math
import time
from pathlib import Path
from typing import Any

import torch

from engine.config import ConfigError, EvaluateSection
from engine.data.evaluation_set import EvaluationSet
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
    other pictures; empty for a single one.

    Returns:
        metrics, chance, count, seconds and examples, as `results.json` holds them, and the captions
        as the servers of COCO and NoCaps take them.

    Raises:
        ConfigError: no usable pair, a model whose states are not finite, or METEOR or SPICE asked
            for where it cannot be run.
    """
    if settings.meteor:
        find_meteor()
    by_spice = find_spice(Path(settings.spice)) if settings.spice is not None else None
    begun = time.perf_counter()
    progress = pairs.progress("captioned", "pairs", settings.batch_size)
    written: list[list[str]] = []
    for views in pairs.views(settings.batch_size):
        with blip.autocast():
            states = blip.model.encode_image(views.to(blip.device))
        if not states.isfinite().all():
            raise ConfigError("the model's states are not finite: its weights are no good")
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
    dealt = generated[1:] + generated[:1]
    scores = _scores(generated, references) | _by_domain(pairs, generated, references)
    if settings.meteor:
        scores["meteor"] = meteor(generated, references)
    examples: list[dict[str, Any]] = [
        {"key": key, "image_id": image_id, "generated": text, "references": theirs}
        for key, image_id, text, theirs in zip(
            pairs.keys, pairs.image_ids, generated, references, strict=True
        )
    ]
    if by_spice:
        each = spice(generated, references, by_spice)
        scores["spice"] = math.fsum(each) / len(each)
        examples = [one | {"spice": of_it} for one, of_it in zip(examples, each, strict=True)]
    return {
        "task": "caption",
        "predictions": [
            {"image_id": image_id, "caption": text}
            for image_id, text in zip(pairs.image_ids, generated, strict=True)
        ],
        "metrics": scores,
        "chance": _scores(dealt, references) if len(dealt) > 1 else {},
        "count": len(generated),
        "bad_samples": len(pairs.bad),
        "seconds": time.perf_counter() - begun,
        "examples": examples,
        "cases": _cases(pairs, generated, references),
    }


def _cases(
    pairs: EvaluationSet, generated: list[str], references: list[list[str]]
) -> dict[str, Any]:
    """Pictures by the CIDEr-D of their captions."""
    each = cider_d_each(generated, references)

    def described(number: int) -> tuple[Case, list[Picture]]:
        case = {"score": f"CIDEr-D {each[number]:.2f}", "output": generated[number]}
        return case | {"truth": references[number]}, [("", number, False)]

    return best_and_worst(pairs, each, range(len(each)), described)


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
        rows = [number for number, name in enumerate(pairs.domains) if name == domain]
        chosen = [candidates[row] for row in rows], [references[row] for row in rows]
        scores, name = _scores(*chosen), domain.replace("-", "_")
        found |= {f"{metric}_{name}": value for metric, value in scores.items()}
    return found
