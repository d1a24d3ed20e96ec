"""Questions about pictures, from VQA v2 (arXiv:1612.00837) and Visual Genome (arXiv:1602.07332).

They come in the JSON that BLIP reads, a list of

    {"image": path, "question": text, "dataset": "vqa", "answer": [ten people's], "question_id": 1}
    {"image": path, "question": text, "dataset": "vg", "answer": text}

Training needs an answer in each row, evaluation a `question_id`; with answers of people it knows
the accuracy, too.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from engine.config import ConfigError
from engine.data.annotations import fingerprint_of
from engine.data.captions import clean_question, valid_text
from engine.data.counter import Draws
from engine.data.json_lists import open_lists, read_list
from engine.data.loader import CROP, Slots
from engine.data.picture_files import read_picture
from engine.data.source import RawSample, Source, stable_id

# Of an answer that one person gave to Visual Genome, as in the original.
GENOME_WEIGHT = 0.2
TEXT, TEXTS = pa.string(), pa.list_(pa.string())
SCHEMA = pa.schema(
    [("image", TEXT), ("question", TEXT), ("question_id", TEXT), ("answers", TEXTS)]
    + [("weights", pa.list_(pa.float64())), ("people", TEXTS)]
)


class Questions:
    """The questions of a file.

    Args:
        path: JSON.
        image_root: folder that relative paths start from; None takes the file's own folder.
        needed: what each row must have beside picture, question and data set: `answer` or
            `question_id`.

    Raises:
        ConfigError: the file cannot be read, or a row is wrong or not complete; names it.
    """

    def __init__(self, path: Path, image_root: str | None, needed: str) -> None:
        self.path = path
        self.root = Path(image_root) if image_root else path.parent
        self._table = _table(path, self.rows(path, needed), needed)
        self.lengths = [len(self._table)]

    def __len__(self) -> int:
        return len(self._table)

    @property
    def fingerprint(self) -> str:
        """Hash of all rows."""
        return fingerprint_of(self._table)

    @staticmethod
    def rows(path: Path, needed: str) -> list[Any]:
        """As VQA and Visual Genome have them."""
        return read_list(path, "questions")

    def content(self, name: str) -> tuple[bytes | None, str | None]:
        """The encoded picture of this name, or why it cannot be had."""
        return read_picture(self.root / name)

    def read(self, number: int) -> RawSample:
        """One question: the `caption`; its weighted answers; its number as JSON, the `uid`."""
        row = {name: self._table[name][number].as_py() for name in self._table.column_names}
        content, problem = self.content(row["image"])
        return RawSample(
            key=f"{row['image']} (question {row['question_id'] or number})",
            uid=row["question_id"],
            url="",
            captions=[row["question"]],
            image_id=stable_id(str(self.root / row["image"])),
            image=content,
            problem=problem,
            answers=tuple(zip(row["answers"], row["weights"], strict=True)),
            people=tuple(row["people"]),
            place=f"{self.path}: row {number}",
        )


def _table(path: Path, rows: list[Any], needed: str) -> pa.Table:
    columns: dict[str, list] = {name: [] for name in SCHEMA.names}
    first_row: dict[str, int] = {}
    for number, row in enumerate(rows):
        problem = _problem(row, needed)
        if problem:
            raise ConfigError(f"{path}: row {number} {problem}")
        given = row.get("answer", [])
        people = [_text(answer) for answer in ([given] if isinstance(given, str) else given)]
        # Who said nothing counts as somebody, and nothing is no answer to learn.
        of_vqa, counts = row["dataset"] == "vqa", Counter(filter(None, people))
        # As JSON, which tells 1 from "1".
        question_id = json.dumps(row["question_id"]) if "question_id" in row else ""
        if needed == "question_id" and first_row.setdefault(question_id, number) != number:
            before = f"the question_id {question_id} of row {first_row[question_id]}"
            raise ConfigError(f"{path}: row {number} has {before}")
        columns["image"].append(row["image"].encode("utf-8", "replace").decode())
        columns["question"].append(_text(row["question"]))
        columns["question_id"].append(question_id)
        columns["answers"].append(list(counts))
        share = [count / len(people) for count in counts.values()]
        columns["weights"].append(share if of_vqa else [GENOME_WEIGHT] * len(counts))
        columns["people"].append(people if of_vqa else [])
    return pa.table(columns, schema=SCHEMA)


def _problem(row: Any, needed: str) -> str | None:
    """What is wrong with a row, or None."""
    if not isinstance(row, dict):
        return f"is no question: {str(row)[:40]!r}"
    image, question = row.get("image"), row.get("question")
    if not isinstance(image, str) or not image:
        return "has no 'image' path"
    if not isinstance(question, str) or not question.strip():
        return f"({image}) has no 'question'"
    if "dataset" not in row:
        return f"({image}) has no 'dataset': 'vqa' or 'vg'"
    if row["dataset"] not in ("vqa", "vg"):
        found = str(row["dataset"])[:40]
        return f"({image}) has a 'dataset' that is neither 'vqa' nor 'vg': {found!r}"
    if needed not in row:
        return f"({image}) has no {needed!r}"
    number = row.get("question_id")
    wrong = not isinstance(number, int | str) or isinstance(number, bool)
    if needed == "question_id" and wrong:
        return f"({image}) has a 'question_id' that is neither a number nor a text"
    return _wrong_answer(row) if "answer" in row else None


def _wrong_answer(row: dict[str, Any]) -> str | None:
    answer = row["answer"]
    if row["dataset"] == "vg":
        right, wanted = isinstance(answer, str), "a text, as Visual Genome's are"
    else:
        right = isinstance(answer, list) and answer and all(isinstance(a, str) for a in answer)
        wanted = "a list of people's texts, as VQA's are"
    if right and not any(map(_text, [answer] if isinstance(answer, str) else answer)):
        return f"({row['image']}) has an 'answer' without a word"
    return None if right else f"({row['image']}) has an 'answer' that is not {wanted}"


def _text(value: str) -> str:
    """Text that Arrow can hold and a tokenizer is quick with."""
    return valid_text(value).strip()


def open_questions(
    spec: str | Sequence[str], image_root: str | None = None, needed: str = "answer"
) -> Source:
    """Open questions to learn from.

    Args:
        spec: JSON file (path, glob or `{0..3}` range), or a list of such.
        image_root: folder that relative picture paths start from.
        needed: see `Questions`.

    Raises:
        ConfigError: nothing there, another kind of file, or a row that is wrong.
    """
    return open_lists(
        spec,
        image_root,
        ("questions", "questions"),
        lambda path: Questions(path, image_root, needed),
    )


def read_answer_list(path: Path) -> list[str]:
    """Answers to choose from: a JSON list of texts.

    Raises:
        ConfigError: the file cannot be read, or a row is no text; names it.
    """
    rows = read_list(path, "answers")
    for number, row in enumerate(rows):
        if not isinstance(row, str) or not _text(row):
            raise ConfigError(f"{path}: row {number} is no answer: {str(row)[:40]!r}")
    return [_text(row) for row in rows]


class QuestionSlots(Slots):
    """Slot number to question."""

    open_source = staticmethod(open_questions)

    def content(self, raw: RawSample, slot: int) -> tuple[torch.Tensor, str]:
        """Picture [3, H, H] uint8 and question, as the slot's counters augment them."""
        question = clean_question(raw.captions[0], self.data.max_words)
        return self.view(raw.image, slot, Draws(self.seed, CROP, slot)), question
