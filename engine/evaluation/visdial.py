"""Visual dialogue: candidate answers of held-out rounds, ranked by the matching head."""

from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from blip_model.pair_scores import matching_logits
from engine.config import ConfigError, EvaluateSection
from engine.data.dialogue_set import DialogueSet, Relevance, Round
from engine.data.dialogue_text import dialogue_rows
from engine.encoding import refuse_not_finite
from engine.evaluation.candidate_ranks import ndcg, rank_metrics, ranks
from engine.evaluation.cases import Case, Picture, best_and_worst
from engine.inference import LoadedBlip

EXAMPLES, SHOWN = 24, 5


@torch.no_grad()
def evaluate_visdial(
    blip: LoadedBlip, dialogues: DialogueSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Ranks of all candidates, and scores of the ranking where right answers are known.

    A picture is encoded and projected once for all of its candidates in a batch; a batch of as
    many as a dialogue has takes it as a whole. What rounds have in common is read with each of
    their candidates: every word of a text looks at every other one, so nothing of it stays the
    same. A round whose picture cannot be shown is ranked in the order of the list, so that none is
    missing.

    Returns:
        metrics, chance (of a random order), count and examples, as `results.json` holds
        them; cases, of dialogues; predictions, as the challenge takes them in:
        `[{"image_id", "round_id", "ranks"}]`.

    Raises:
        ConfigError: no usable round, wrong dense annotations, or a model whose scores are not
            finite.
    """
    relevance = None
    if settings.dense_annotations is not None:
        relevance = Relevance.read(Path(settings.dense_annotations))
    found: list[list[np.ndarray]] = []
    at_once = dialogues.rounds_of(settings.batch_size)
    progress = dialogues.progress("ranked", "rounds", at_once)
    for views, owners in dialogues.views(at_once):
        found.append(_scores(blip, views, owners, dialogues.rounds[-len(owners) :]))
        progress.add(len(owners))
    scores = dialogues.gathered(found)
    if not dialogues.share.here.is_main:
        return {}
    blind = [np.zeros(len(one.candidates)) for one in dialogues.rounds]
    of_bad = [(one, np.zeros(len(one.candidates))) for one in dialogues.bad_rounds]
    return {
        "metrics": _means(dialogues.rounds, scores, relevance),
        "chance": _means(dialogues.rounds, blind, relevance),
        "count": len(scores),
        "examples": [
            _example(one, given)
            for one, given in zip(dialogues.rounds[:EXAMPLES], scores[:EXAMPLES], strict=True)
        ],
        "cases": _cases(dialogues, scores),
        "predictions": [
            _prediction(one, given)
            for one, given in [*zip(dialogues.rounds, scores, strict=True), *of_bad]
        ],
    }


def _scores(
    blip: LoadedBlip, views: torch.Tensor, owners: list[int], rounds: list[Round]
) -> list[np.ndarray]:
    """For each round how much more a candidate is right than wrong, in logits."""
    longest, rows = blip.model.config.max_positions, []
    counts = [len(one.candidates) for one in rounds]
    for one in rounds:
        rows += dialogue_rows(blip.tokenizer, one.lines, one.candidates, longest)
    ids, mask = (part.to(blip.device) for part in blip.tokenizer.pad(rows))
    texts = np.bincount(owners, weights=counts, minlength=len(views)).astype(np.int64)
    with blip.autocast():
        states = blip.model.encode_image(views.to(blip.device))
        of_picture = torch.from_numpy(texts).to(blip.device)
        logits = matching_logits(blip.model, ids, mask, states, of_picture)
    refuse_not_finite(logits, "scores")
    return np.split((logits[:, 1] - logits[:, 0]).cpu().numpy(), np.cumsum(counts)[:-1])


def _means(
    rounds: list[Round], scores: list[np.ndarray], relevance: Relevance | None
) -> dict[str, float]:
    """Of each score over the rounds that have it; empty where none has."""
    found: dict[str, list[float]] = {}
    for one, given in zip(rounds, scores, strict=True):
        here = {} if one.right is None else rank_metrics(given, one.right)
        shares = None if relevance is None else relevance.of(one)
        if shares is not None and shares.any():
            here["ndcg"] = ndcg(given, shares)
        for name, value in here.items():
            found.setdefault(name, []).append(value)
    if relevance is not None and "ndcg" not in found:
        raise ConfigError(f"{relevance.path}: is about none of the rounds of data.eval")
    return {name: float(np.mean(values)) for name, values in found.items()}


def _cases(dialogues: DialogueSet, scores: list[np.ndarray]) -> dict[str, Any] | None:
    """Dialogues by the mean reciprocal rank of their right answers; None where none is known."""
    rounds = dialogues.rounds
    ranked = {
        number: rank_metrics(given, one.right)
        for number, (one, given) in enumerate(zip(rounds, scores, strict=True))
        if one.right is not None
    }
    whole = [list(those) for _, those in groupby(ranked, lambda number: _dialogue(rounds[number]))]
    if not whole:
        return None
    means = [float(np.mean([ranked[number]["mrr"] for number in those])) for those in whole]

    def described(place: int) -> tuple[Case, list[Picture]]:
        those = whole[place]
        case: Case = {"score": f"mean reciprocal rank {means[place]:.2f}"}
        case["asked"] = rounds[those[0]].lines[0]
        case["rounds"] = [
            _ranked(rounds[number], scores[number], ranked[number]["mean_rank"]) for number in those
        ]
        return case, [("", those[0], False)]

    owners = [dialogues.image_ids[those[0]] for those in whole]
    return best_and_worst(dialogues, means, owners, described)


def _dialogue(one: Round) -> str:
    """What the rounds of a dialogue have in common."""
    return one.uid.partition("/")[0]


def _ranked(one: Round, given: np.ndarray, rank: float) -> dict[str, str]:
    """A round as a case shows it."""
    found = {"score": f"rank {rank:g} of {len(given)}", "asked": one.lines[-1]}
    found["output"] = one.candidates[int(given.argmax())]
    return found | {"truth": one.candidates[one.right or 0]}


def _example(one: Round, given: np.ndarray) -> dict[str, Any]:
    best = np.argsort(-given, kind="stable")[:SHOWN].tolist()
    return {
        "key": one.key,
        "dialogue": one.lines,
        "answer": None if one.right is None else one.candidates[one.right],
        "top": [{"answer": one.candidates[place], "score": float(given[place])} for place in best],
    }


def _prediction(one: Round, given: np.ndarray) -> dict[str, Any]:
    image_id, round_id = one.uid.split("/")
    return {"image_id": int(image_id), "round_id": int(round_id), "ranks": ranks(given)}
