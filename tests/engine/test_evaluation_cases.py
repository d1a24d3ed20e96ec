"""What an item of an evaluation is shown by: its own pictures, its own words, its own score."""

from pathlib import Path

import numpy as np
import torch

from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from engine.data.question_set import QuestionSet
from engine.data.questions import open_questions
from engine.data.statements import StatementSet, open_statements
from engine.data.video_pairs import open_videos
from engine.data.videos import decode_video
from engine.evaluation import classification, nlvr, vqa
from engine.evaluation.answer_accuracy import mean_accuracy
from engine.evaluation.cases import QUALITY, SIDE, best_and_worst
from engine.report.thumbnails import encoded, shrunk
from tests.shards import COLOURS, picture, write_questions, write_shards, write_statements
from tests.videos import write_videos

SIZES = (32, 30, 10_000)


def shown(number: int) -> str | None:
    """`picture(number)` as a case shows it."""
    image = shrunk(picture(number), SIDE)
    return None if image is None else encoded(image, QUALITY)


def test_a_statement_is_shown_by_both_pictures_and_how_sure_its_truth_is(tmp_path: Path) -> None:
    statements = StatementSet(open_statements(str(write_statements(tmp_path, 4))), *SIZES)
    list(statements.views(3))
    # Every other one is true, the first is not.
    found = nlvr._cases(statements, [0.9, 0.75, 0.375, 0.25])
    told = {int(one["pictures"][0]["key"][-1]): one for one in found["best"] + found["worst"]}
    for number, score in enumerate(("10.0%", "75.0%", "62.5%", "25.0%")):
        case = told[number]
        assert case["score"] == f"{score} sure of what is right"
        assert case["asked"] == statements.sentences[number]
        assert (case["output"], case["truth"]) == (
            ("true", "true", "false", "false")[number],
            [("false", "true")[number % 2]],
        )
        both = [(one["label"], one["image"]) for one in case["pictures"]]
        assert both == [("left", shown(number)), ("right", shown((5 * number + 3) % 16))]
    assert [one["asked"] for one in found["best"]] == [statements.sentences[n] for n in (1, 2)]


def test_a_question_that_people_answered_is_shown_by_its_own_picture(tmp_path: Path) -> None:
    """Those between, which nobody answered, are no cases."""
    questions = QuestionSet(
        open_questions(str(write_questions(tmp_path, 8)), needed="question_id"), *SIZES
    )
    list(questions.views(3))
    right = [COLOURS[number] for number in range(8)]
    found = vqa._cases(questions, [*right[:5], "no", *right[6:]], mean_accuracy)
    assert found is not None and found["count"] == 6
    cases = found["best"] + found["worst"]
    for case in cases:
        number = next(n for n in range(8) if case["pictures"][0]["image"] == shown(n))
        assert case["truth"][0] == f"{COLOURS[number]} (7 of 10)"
        assert case["score"] == f"accuracy {0 if number == 5 else 1:.2f}"
        assert case["output"] == ("no" if number == 5 else COLOURS[number])
    assert len(cases) == 6


def test_classified_pictures_are_named_where_others_are_left_out(tmp_path: Path) -> None:
    pairs = EvaluationSet(open_source(str(write_shards(tmp_path, 5))), *SIZES)
    list(pairs.views(4))
    used, labels = np.array([1, 3, 4]), np.array([-1, 0, -1, 1, 1])
    scores = torch.tensor([[0.5, 0.25], [0.5, 0.75], [0.75, 0.25]])
    names = ["cat", "dog"]
    found = classification._cases(pairs, used, labels[used], scores.numpy(), names)
    told = {one["pictures"][0]["key"]: one for one in found["best"] + found["worst"]}
    assert {key: one["pictures"][0]["image"] for key, one in told.items()} == {
        f"{number:05d}": shown(number) for number in used.tolist()
    }
    assert [told[key]["score"] for key in sorted(told)] == [
        "ahead by 0.250",
        "ahead by 0.250",
        "behind by 0.500",
    ]
    assert [told[key]["truth"] for key in sorted(told)] == [["cat"], ["dog"], ["dog"]]
    examples = classification._examples(pairs, used, labels, scores, names)
    assert [(one["key"], one["truth"], one["top"][0]) for one in examples] == [
        ("00001", "cat", "cat"),
        ("00003", "dog", "dog"),
        ("00004", "dog", "cat"),
    ]
    assert [one["image_id"] for one in examples] == [pairs.image_ids[n] for n in used]


def test_a_video_is_shown_by_its_middle(tmp_path: Path) -> None:
    videos = EvaluationSet(open_videos(str(write_videos(tmp_path, 2))), *SIZES, frames=4)
    list(videos.views(2))
    found = best_and_worst(videos, [0.0, 1.0], [0, 1], lambda n: ({}, [("", n, False)]))
    for number, kind in enumerate(("worst", "best")):
        (case,) = found[kind]
        frames = decode_video((tmp_path / f"video{number}.mp4").read_bytes(), 8, 10_000)
        assert case["pictures"][0]["image"] == encoded(frames[4], QUALITY)
        assert encoded(frames[4], QUALITY) != encoded(frames[0], QUALITY)
