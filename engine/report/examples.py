"""Held-out pictures with captions, and captions with the pictures that they find."""

import math
import re
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from engine.report.run_folder import RunFolder, as_list, clip, count_of, number
from engine.report.thumbnails import is_picture

MOST_CAPTIONS = 36
MOST_QUERIES = 12
# Scores behind the shortlist are a cosine and `engine.evaluation.retrieval.NOT_LISTED`.
BEHIND = -90.0
METRICS = {"cider": "CIDEr", "meteor": "METEOR", "spice": "SPICE", "word_f1": "word F1"}
METRICS |= {"mrr": "MRR", "ndcg": "NDCG", "r1": "R@1", "r5": "R@5", "r10": "R@10"}
METRICS |= {f"bleu{n}": f"BLEU-{n}" for n in range(1, 5)}


def picture_keys(run: RunFolder) -> set[str]:
    """Names of the samples whose pictures the page shows."""
    keys = [example.get("key") for example in _examples(run.caption)[:MOST_CAPTIONS]]
    for example in _examples(run.retrieval)[:MOST_QUERIES]:
        keys += [example.get("truth"), *as_list(example.get("top"))[:5]]
    return {str(key) for key in keys if key is not None}


def captions(run: RunFolder, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Held-out pictures with the generated caption beside the original ones."""
    cards = []
    for example in _examples(run.caption)[:MOST_CAPTIONS]:
        references = [clip(text) for text in as_list(example.get("references"))[:5]]
        generated = clip(example.get("generated"))
        key = clip(example.get("key"))
        cards.append(
            {
                "key": key,
                "picture": _picture(thumbnails, example.get("key"), example.get("image")),
                "words": mark_shared(generated, references),
                "references": references,
                "same": any(_words(generated) == _words(text) for text in references),
            }
        )
    return {
        "present": run.caption is not None,
        "cards": cards,
        "count": count_of(run.caption),
        "metrics": metrics_of(run.caption),
    }


def queries(run: RunFolder, thumbnails: Mapping[str, str]) -> dict[str, Any]:
    """Captions as queries with the five best pictures, the right one marked."""
    rows = []
    for example in _examples(run.retrieval)[:MOST_QUERIES]:
        truth = example.get("truth")
        scores = [number(score) for score in as_list(example.get("scores"))]
        top = [
            {
                "key": clip(key),
                "picture": _picture(thumbnails, key),
                "right": key == truth,
                "score": _score(scores[place]) if place < len(scores) else None,
            }
            for place, key in enumerate(as_list(example.get("top"))[:5])
        ]
        rank = number(example.get("rank"))
        missed = truth is not None and not any(hit["right"] for hit in top)
        rows.append(
            {
                "query": clip(example.get("query")),
                "top": top,
                "rank": f"{rank:,.0f}" if rank is not None and math.isfinite(rank) else None,
                "missed": missed,
                "truth": {"key": clip(truth), "picture": _picture(thumbnails, truth)},
            }
        )
    return {"present": run.retrieval is not None, "rows": rows, "count": count_of(run.retrieval)}


def _score(score: float | None) -> str | None:
    """What orders a picture; a dash for one behind the shortlist, which has no match's logit."""
    if score is None or not math.isfinite(score):
        return None
    return "–" if score < BEHIND else f"{score:.2f}"


def mark_shared(generated: str, references: list[str]) -> list[tuple[str, bool]]:
    """Pieces of a generated caption and whether each consists of words of an original caption."""
    known = {word for text in references for word in _words(text)}
    words = re.split(r"(\w+)", generated)
    shared = [piece.lower() in known for piece in words]
    # What stands between two shared words belongs to them, so that a phrase is marked as one.
    for gap in range(2, len(words) - 2, 2):
        shared[gap] = shared[gap - 1] and shared[gap + 1]
    runs = groupby(zip(words, shared, strict=True), key=lambda pair: pair[1])
    pieces = [("".join(word for word, _ in run), same) for same, run in runs]
    return [(piece, same) for piece, same in pieces if piece]


def _picture(thumbnails: Mapping[str, str], key: Any, given: Any = None) -> str | None:
    """The thumbnail of a sample, or the one its results carry."""
    return thumbnails.get(str(key)) or (given if is_picture(given) else None)


def _examples(results: dict[str, Any] | None) -> list[dict[str, Any]]:
    given = as_list((results or {}).get("examples"))
    return [example for example in given if isinstance(example, dict)]


def metrics_of(results: dict[str, Any] | None) -> list[tuple[str, str, str | None]]:
    """Name, value and chance of every figure."""
    given, chance = ((results or {}).get(part) for part in ("metrics", "chance"))
    chance = chance if isinstance(chance, dict) else {}
    rows = []
    for name, raw in given.items() if isinstance(given, dict) else ():
        value, by_chance = number(raw), number(chance.get(name))
        if value is not None:
            beside = None if by_chance is None else f"{by_chance:.2f}"
            rows.append(
                (METRICS.get(name) or clip(name, 40).replace("_", " "), f"{value:.2f}", beside)
            )
    return rows[:12]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
