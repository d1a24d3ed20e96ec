"""What each task of an evaluation opens, goes through, asks of a model and writes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from engine.config import EvaluateSection
from engine.data.dialogue_set import DialogueSet
from engine.data.dialogues import open_dialogues
from engine.data.evaluation_set import EvaluationSet
from engine.data.held_out import HeldOut
from engine.data.open_source import open_source
from engine.data.question_set import QuestionSet
from engine.data.questions import open_questions
from engine.data.source import Source
from engine.data.statements import StatementSet, open_statements
from engine.data.video_pairs import open_videos
from engine.data.video_questions import open_video_questions
from engine.encoding import ANSWERS
from engine.evaluation.caption import evaluate_captions
from engine.evaluation.classification import evaluate_classification
from engine.evaluation.nlvr import evaluate_nlvr
from engine.evaluation.retrieval import evaluate_retrieval
from engine.evaluation.video import evaluate_video_qa, evaluate_video_retrieval
from engine.evaluation.visdial import evaluate_visdial
from engine.evaluation.vqa import evaluate_vqa
from engine.inference import LoadedBlip

Evaluator = Callable[[LoadedBlip, Any, EvaluateSection], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """One of them.

    Attributes:
        part: of a network that it needs.
        open: from what a user names, and where its pictures are, to the data.
        collect: the data, with the views' side and bounds, to what is gone through in order.
        evaluate: finds what `results.json` holds; empty but on the first process.
        frames: whether it is of videos.
        predictions: the file for them, called as the server that takes them in knows it.
    """

    part: str
    open: Callable[..., Source]
    collect: Callable[..., HeldOut]
    evaluate: Evaluator
    frames: bool = False
    predictions: str = "predictions.json"


TASKS = {
    "retrieval": Task("text_encoder", open_source, EvaluationSet, evaluate_retrieval),
    "caption": Task(
        "text_decoder",
        partial(open_source, textless=True),
        partial(EvaluationSet, textless=True),
        evaluate_captions,
        predictions="captions.json",
    ),
    "classification": Task(
        "text_encoder", partial(open_source, classes=True), EvaluationSet, evaluate_classification
    ),
    "nlvr": Task("cls_head", open_statements, StatementSet, evaluate_nlvr),
    "visdial": Task(
        "itm_head",
        partial(open_dialogues, answered=False),
        DialogueSet,
        evaluate_visdial,
        predictions="ranks.json",
    ),
    "vqa": Task(
        ANSWERS,
        partial(open_questions, needed="question_id"),
        QuestionSet,
        evaluate_vqa,
        predictions="vqa_result.json",
    ),
    "video_retrieval": Task(
        "text_encoder", open_videos, EvaluationSet, evaluate_video_retrieval, frames=True
    ),
    "video_qa": Task(
        ANSWERS,
        partial(open_video_questions, needed="question_id"),
        QuestionSet,
        evaluate_video_qa,
        frames=True,
    ),
}
