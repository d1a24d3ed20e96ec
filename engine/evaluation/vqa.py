"""Visual question answering on held-out questions: answers chosen from a list, or written."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from engine.answering import Answerer
from engine.config import ConfigError, EvaluateSection
from engine.data.question_set import QuestionSet
from engine.data.questions import read_answer_list
from engine.encoding import refuse_not_finite
from engine.evaluation.answer_accuracy import mean_accuracy, normalised
from engine.evaluation.cases import Case, Picture, best_and_worst
from engine.inference import LoadedBlip

Accuracy = Callable[[Sequence[str], Sequence[Sequence[str]]], float]
EXAMPLES = 24
# [DEC], a word and [SEP]: a written answer needs no more.
SHORT = 3


@torch.no_grad()
def evaluate_vqa(
    blip: LoadedBlip,
    questions: QuestionSet,
    settings: EvaluateSection,
    *,
    accuracy: Accuracy = mean_accuracy,
) -> dict[str, Any]:
    """Answers to all questions, and their accuracy where people's are known.

    Chance is the accuracy of giving the answer that most people gave to every question. A question
    that cannot be shown is answered with "" in the predictions, so that none is missing.

    Args:
        blip: with an answering decoder.
        questions: held out.
        settings: of the evaluation.
        accuracy: of answers, by those of people.

    Returns:
        metrics, chance, count and examples, as `results.json` holds them; predictions, as
        the challenge takes them in: `[{"question_id": ..., "answer": ...}]`.

    Raises:
        ConfigError: no usable question, a wrong list, or a model whose states are not finite.
    """
    listed = None
    if settings.answer_list is not None:
        if not settings.shortlist:
            raise ConfigError("evaluate.shortlist is 0: no answer of the list would be compared")
        listed = read_answer_list(Path(settings.answer_list))
    elif settings.min_length > SHORT:
        raise ConfigError(
            f"evaluate.min_length {settings.min_length} forbids short answers: give --evaluate."
            "min_length 1 --evaluate.max_length 10, or an evaluate.answer_list to choose from"
        )
    answering = Answerer(
        blip,
        listed,
        shortlist=settings.shortlist,
        num_beams=settings.num_beams,
        max_length=settings.max_length,
        min_length=settings.min_length,
    )
    written: list[list[str]] = []
    progress = questions.progress("answered", "questions", settings.batch_size)
    longest = min(questions.max_tokens, blip.model.config.max_positions)
    for views, owners in questions.views(settings.batch_size):
        texts = questions.questions[-len(owners) :]
        ids, mask = (part.to(blip.device) for part in blip.tokenizer.encode(texts, longest))
        with blip.autocast():
            states = blip.model.encode_image(views.to(blip.device))
            states = states.index_select(0, torch.tensor(owners, device=blip.device))
            asked = blip.model.read_questions(ids, mask, states)
            refuse_not_finite(asked.states, "states")
            written.append(answering(asked))
        progress.add(len(owners))
    answers = questions.gathered(written)
    if not questions.share.here.is_main:
        return {}
    given = zip(questions.ids + questions.bad_ids, answers + [""] * len(questions.bad), strict=True)
    return {
        **_scores(answers, questions.people, accuracy),
        "count": len(answers),
        "examples": [
            {
                "key": questions.keys[number],
                "question": questions.questions[number],
                "generated": answers[number],
                "references": list(questions.people[number]),
            }
            for number in range(min(EXAMPLES, len(answers)))
        ],
        "cases": _cases(questions, answers, accuracy),
        "predictions": [
            {"question_id": json.loads(number), "answer": text} for number, text in given
        ],
    }


def _scores(
    answers: list[str], people: list[tuple[str, ...]], accuracy: Accuracy
) -> dict[str, dict[str, float]]:
    """Metrics and chance over the questions that people answered; empty where there are none."""
    known = [(one, many) for one, many in zip(answers, people, strict=True) if many]
    if not known:
        return {"metrics": {}, "chance": {}}
    given, human = zip(*known, strict=True)
    counts = Counter(normalised(answer) for many in human for answer in many)
    commonest = counts.most_common(1)[0][0]
    chance = accuracy([commonest] * len(human), human)
    return {"metrics": {"accuracy": accuracy(given, human)}, "chance": {"accuracy": chance}}


def _cases(questions: QuestionSet, answers: list[str], accuracy: Accuracy) -> dict[str, Any] | None:
    """Questions that people answered, by the accuracy of the answers; None where there are none."""
    known = [number for number, people in enumerate(questions.people) if people]
    if not known:
        return None
    scores = [accuracy([answers[number]], [questions.people[number]]) for number in known]

    def described(place: int) -> tuple[Case, list[Picture]]:
        number = known[place]
        counts = Counter(questions.people[number]).most_common()
        truth = [f"{answer} ({count} of {sum(c for _, c in counts)})" for answer, count in counts]
        case = {"score": f"accuracy {scores[place]:.2f}", "asked": questions.questions[number]}
        return case | {"output": answers[number], "truth": truth}, [("", number, False)]

    owners = [questions.image_ids[number] for number in known]
    return best_and_worst(questions, scores, owners, described)
