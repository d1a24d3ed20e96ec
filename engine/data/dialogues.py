"""VisDial v1.0's dialogues about pictures, round by round (arXiv:1611.08669).

The official files are read as they are:

    {"split": "val2018", "data": {
        "questions": [text, ...], "answers": [text, ...],
        "dialogs": [{"image_id": 5, "caption": text, "dialog": [
            {"question": 3, "answer": 8, "answer_options": [100 numbers], "gt_index": 7}, ...]}]}}

A round with `answer_options` is one to rank; earlier ones are what has been said. Pictures have
their official names, `VisualDialog_val2018_000000000005.jpg`, below data.image_root or in the
folder that their archive makes. A dialogue may name another file itself, as `image`: that is ours.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from engine.config import ConfigError
from engine.data.annotations import fingerprint_of
from engine.data.captions import SPACES, valid_text
from engine.data.json_lists import open_lists, read_json
from engine.data.picture_files import read_picture
from engine.data.source import RawSample, Source, stable_id

# Wrong answers that a right one is told from, drawn from its candidates anew each time. Five texts
# of some hundred tokens are as many tokens as a picture at 384 pixels has.
WRONG = 4

# What names of pictures begin with, by the first word of a file's split. v1.0 trains on both of
# COCO's parts.
PICTURES = {
    "train": ("COCO_train2014", "COCO_val2014"),
    "val": ("VisualDialog_val2018",),
    "test": ("VisualDialog_test2018",),
}
# Number of what is not known.
UNKNOWN = -1


class Dialogues:
    """The rounds of a file that have candidates.

    Args:
        path: JSON.
        image_root: folder that pictures lie in; None takes the file's own.
        answered: every round to rank must say which candidate is right, as training needs it.

    Raises:
        ConfigError: the file cannot be read, or a row is wrong or not complete; names it.
    """

    def __init__(self, path: Path, image_root: str | None, answered: bool) -> None:
        self.root = Path(image_root) if image_root else path.parent
        content = read_json(path)
        try:
            data = content["data"]
            texts = {name: data[name] for name in ("questions", "answers")}
            dialogs, self._prefixes = data["dialogs"], _prefixes(content.get("split"))
        except (KeyError, TypeError, AttributeError):
            found = "no 'data' with 'questions', 'answers' and 'dialogs'"
            raise ConfigError(f"{path}: expected VisDial's JSON, found {found}") from None
        self._texts = {name: _texts(path, name, rows) for name, rows in texts.items()}
        self._dialogs, rounds = _read_dialogs(path, dialogs, self._texts, self._prefixes, answered)
        names = ("dialog", "number", "question", "answer", "right")
        columns = np.array([row[:-1] for row in rounds], np.int64)
        self._rounds = dict(zip(names, columns.T, strict=True))
        counts = [len(row[-1]) for row in rounds]
        self._starts, self._ranked = np.cumsum([0, *counts]), np.flatnonzero(counts)
        self._options = np.concatenate([row[-1] for row in rounds])
        self.lengths = [len(self._ranked)]

    def __len__(self) -> int:
        return len(self._ranked)

    @property
    def fingerprint(self) -> str:
        """Hash of all dialogues."""
        state = xxhash.xxh3_128()
        for texts in self._texts.values():
            state.update(fingerprint_of(pa.table({"text": texts})).encode())
        state.update(fingerprint_of(self._dialogs).encode())
        for array in (*self._rounds.values(), self._starts, self._options):
            state.update(np.ascontiguousarray(array))
        return state.hexdigest()

    def read(self, number: int) -> RawSample:
        """One round.

        Its `captions` are a single text of lines: the caption; question and answer of each earlier
        round; the question. Its `answers` are the candidates in order, of weight 1 where right.
        The `uid` is that of `round_name`.
        """
        last = int(self._ranked[number])
        facts = {name: int(column[last]) for name, column in self._rounds.items()}
        dialog = {n: self._dialogs[n][facts["dialog"]].as_py() for n in self._dialogs.column_names}
        said = [dialog["caption"]]
        for earlier in range(last - facts["number"] + 1, last):
            said += [self._text("questions", earlier), self._text("answers", earlier)]
        options = self._options[self._starts[last] : self._starts[last + 1]].tolist()
        texts = [self._texts["answers"][option].as_py() for option in options]
        image, content, problem = self._picture(dialog)
        return RawSample(
            key=f"{image} (round {facts['number']})",
            uid=round_name(dialog["image_id"], facts["number"]),
            url="",
            captions=["\n".join([*said, self._text("questions", last)])],
            image_id=stable_id(str(self.root / image)),
            image=content,
            problem=problem,
            answers=tuple((text, float(n == facts["right"])) for n, text in enumerate(texts)),
        )

    def _text(self, kind: str, row: int) -> str:
        """Question or answer of a round, the question with its mark."""
        text = self._texts[kind][int(self._rounds[kind[:-1]][row])].as_py()
        return f"{text.rstrip('? ')}?" if kind == "questions" else text

    def _picture(self, dialog: dict[str, Any]) -> tuple[str, bytes | None, str | None]:
        """Its file, its bytes, and why they cannot be had."""
        names = list(_file_names(dialog["image"], dialog["image_id"], self._prefixes))
        for name in names:
            content, problem = read_picture(self.root / name)
            if problem != "missing":
                return name, content, problem
        return names[0], None, "missing"


def round_name(image_id: int, number: int) -> str:
    """A round by its dialogue's picture and its number, from 1."""
    return f"{image_id}/{number}"


def _prefixes(split: Any) -> tuple[str, ...]:
    known = [names for word, names in PICTURES.items() if str(split).startswith(word)]
    return known[0] if known else ()


def _file_names(image: str, image_id: int, prefixes: Sequence[str]) -> Iterator[str]:
    """Where a picture may lie below the root."""
    if image:
        yield image
        return
    for prefix in prefixes:
        name = f"{prefix}_{image_id:012d}.jpg"
        yield name
        yield f"{prefix.removeprefix('COCO_')}/{name}"


def _texts(path: Path, name: str, rows: Any) -> pa.Array:
    """Questions or answers, each on a line of its own."""
    if not isinstance(rows, list):
        raise ConfigError(f"{path}: {name!r} is no list of texts")
    for number, row in enumerate(rows):
        if not isinstance(row, str):
            raise ConfigError(f"{path}: row {number} of {name!r} is no text: {str(row)[:40]!r}")
    return pa.array([_line(row) for row in rows], pa.string())


def _line(text: str) -> str:
    """Text that Arrow can hold, without line ends."""
    return SPACES.sub(" ", valid_text(text)).strip()


Round = tuple[int, int, int, int, int, np.ndarray]


def _read_dialogs(
    path: Path,
    dialogs: Any,
    texts: dict[str, pa.Array],
    prefixes: Sequence[str],
    answered: bool,
) -> tuple[pa.Table, list[Round]]:
    """Dialogues, and their rounds: dialogue, number, question, answer, right one, candidates."""
    if not isinstance(dialogs, list) or not dialogs:
        raise ConfigError(f"{path}: 'dialogs' is no list of dialogues")
    columns: dict[str, list] = {"image_id": [], "image": [], "caption": []}
    rounds: list[Round] = []
    first_row: dict[int, int] = {}
    for row, dialog in enumerate(dialogs):
        problem = _wrong_dialog(dialog, prefixes)
        if problem:
            raise ConfigError(f"{path}: row {row} {problem}")
        image_id = dialog["image_id"]
        if first_row.setdefault(image_id, row) != row:
            raise ConfigError(
                f"{path}: row {row} has the image_id {image_id} of row {first_row[image_id]}"
            )
        columns["image_id"].append(image_id)
        columns["image"].append(dialog.get("image", "").encode("utf-8", "replace").decode())
        columns["caption"].append(_line(dialog["caption"]))
        for number, one in enumerate(dialog["dialog"], 1):
            problem = _wrong_round(one, texts, number == len(dialog["dialog"]), answered)
            if problem:
                raise ConfigError(
                    f"{path}: row {row} (image_id {image_id}): round {number} {problem}"
                )
            said = (one.get(key) for key in ("answer", "gt_index"))
            spoken = (one["question"], *(UNKNOWN if x is None else x for x in said))
            options = np.asarray(one.get("answer_options") or (), np.int32)
            rounds.append((row, number, *spoken, options))
    if not any(len(one[-1]) for one in rounds):
        raise ConfigError(f"{path}: no round has 'answer_options' to rank")
    return pa.table(columns), rounds


def _wrong_dialog(dialog: Any, prefixes: Sequence[str]) -> str | None:
    """What is wrong with a dialogue but for its rounds, or None."""
    if not isinstance(dialog, dict):
        return f"is no dialogue: {str(dialog)[:40]!r}"
    image_id = dialog.get("image_id")
    if not _is_number(image_id, 1 << 63):
        return "has no 'image_id' that is a number"
    image = dialog.get("image", "")
    if not isinstance(image, str) or not (image or prefixes):
        known = ", ".join(PICTURES)
        return f"(image_id {image_id}) has no 'image' path, and the split is none of {known}"
    if not isinstance(dialog.get("caption"), str):
        return f"(image_id {image_id}) has no 'caption'"
    rounds = dialog.get("dialog")
    if not isinstance(rounds, list) or not rounds:
        return f"(image_id {image_id}) has no 'dialog'"
    return None


def _wrong_round(one: Any, texts: dict[str, pa.Array], is_last: bool, answered: bool) -> str | None:
    """What is wrong with a round, or None."""
    if not isinstance(one, dict):
        return f"is none: {str(one)[:40]!r}"
    for key, name in (("question", "questions"), ("answer", "answers")):
        unsaid = key == "answer" and is_last and one.get(key) is None
        if not unsaid and not _is_number(one.get(key), len(texts[name])):
            return f"has no {key!r} that is the number of one of {len(texts[name])} {name}"
    options, right = one.get("answer_options"), one.get("gt_index")
    if options is None:
        return "has no 'answer_options'" if is_last else None
    if not isinstance(options, list) or len(options) < 2:
        return "has 'answer_options' that are no list of two or more"
    if not _are_numbers(options, len(texts["answers"])):
        return f"has 'answer_options' that are not numbers of {len(texts['answers'])} answers"
    if answered and right is None:
        return "has no 'gt_index'"
    if right is not None and not _is_number(right, len(options)):
        return f"has a 'gt_index' that is not the place of one of {len(options)} answer_options"
    return None


def _is_number(value: Any, count: int | None = None) -> bool:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return right and (count is None or value < count)


def _are_numbers(values: list, count: int) -> bool:
    """`_is_number` of all: a file has a hundred million of them."""
    try:
        array = np.asarray(values)
    except ValueError:
        return False
    return array.ndim == 1 and array.dtype.kind == "i" and 0 <= array.min() <= array.max() < count


def open_dialogues(
    spec: str | Sequence[str], image_root: str | None = None, answered: bool = True
) -> Source:
    """Open dialogues, round by round.

    Args:
        spec: JSON file (path, glob or `{0..3}` range), or a list of such.
        image_root: folder that pictures lie in.
        answered: see `Dialogues`.

    Raises:
        ConfigError: nothing there, another kind of file, or a row that is wrong.
    """
    what = ("dialogues", "dialogues about pictures")
    return open_lists(spec, image_root, what, lambda path: Dialogues(path, image_root, answered))
