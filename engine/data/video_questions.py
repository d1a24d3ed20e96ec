"""Questions about videos, from MSRVTT-QA and MSVD-QA (Xu et al. 2017).

They come in the JSON or JSON lines of these data sets, where a question has one answer:

    {"video_id": 6513, "question": "what are three people sitting on?", "answer": "couch", "id": 1}

The number stands for `video6513` or `vid6513`; a row may also name its file as `video`, and its
`id` as `question_id`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.config import ConfigError
from engine.data.json_lists import JSON_LINES, open_lists, read_list
from engine.data.questions import Questions, QuestionSlots
from engine.data.source import Source
from engine.data.video_files import read_video, video_of
from engine.data.video_pairs import VideoSlots


class VideoQuestions(Questions):
    """The questions of a file; a sample's `image` is an encoded video.

    Args:
        path: JSON or JSON lines.
        image_root: folder that names of videos start from; None takes the file's own folder.
        needed: `answer`, or `question_id` where answers may be unknown.

    Raises:
        ConfigError: the file cannot be read, or a row is wrong or not complete; names it.
    """

    @staticmethod
    def rows(path: Path, needed: str) -> list[Any]:
        """As VQA has them, one person having answered."""
        rows = read_list(path, "questions about videos")
        for number, row in enumerate(rows):
            problem = _problem(row, needed)
            if problem:
                raise ConfigError(f"{path}: row {number} {problem}")
        return [_as_vqa(row, number) for number, row in enumerate(rows)]

    def content(self, name: str) -> tuple[bytes | None, str | None]:
        """The encoded video of this name, or why it cannot be had."""
        return read_video(self.root, name)


def _problem(row: Any, needed: str) -> str | None:
    """What is wrong with a row, or None."""
    if not isinstance(row, dict):
        return f"is no question: {str(row)[:40]!r}"
    name = video_of(row)
    if name is None:
        return "has no 'video' or 'video_id'"
    question, answer = row.get("question"), row.get("answer")
    if not isinstance(question, str) or not question.strip():
        return f"({name}) has no 'question'"
    if answer is None and needed == "answer":
        return f"({name}) has no 'answer'"
    if answer is not None and not (isinstance(answer, str) and answer.strip()):
        return f"({name}) has an 'answer' that is not a text"
    return None


def _as_vqa(row: dict[str, Any], number: int) -> dict[str, Any]:
    fields = {"image": video_of(row), "question": row["question"], "dataset": "vqa"}
    fields["question_id"] = row.get("question_id", row.get("id", number))
    return fields if row.get("answer") is None else fields | {"answer": [row["answer"]]}


def open_video_questions(
    spec: str | Sequence[str], image_root: str | None = None, needed: str = "answer"
) -> Source:
    """Open questions about videos to learn from.

    Args:
        spec: JSON or JSON lines (path, glob or `{0..3}` range), or a list of such.
        image_root: folder that names of videos start from.
        needed: see `VideoQuestions`.

    Raises:
        ConfigError: nothing there, another kind of file, or a row that is wrong.
    """
    what = ("questions", "questions about videos")
    open_list = partial(VideoQuestions, image_root=image_root, needed=needed)
    return open_lists(spec, image_root, what, open_list, JSON_LINES)


class VideoQuestionSlots(VideoSlots, QuestionSlots):
    """Slot number to video and question."""

    open_source = staticmethod(open_video_questions)
