"""NLVR2's statements: a sentence about two pictures, true or false (arXiv:1811.00491).

They come in the JSON that BLIP reads: `[{"images": [left, right], "sentence": ..., "label": "True"
or "False"}]`, with an `identifier` or without.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from engine.config import ConfigError
from engine.data.annotations import fingerprint_of
from engine.data.augment import evaluation_view
from engine.data.captions import clean_caption
from engine.data.counter import Draws
from engine.data.held_out import HeldOut
from engine.data.images import BadSample, decode_image
from engine.data.json_lists import open_lists, read_list
from engine.data.loader import CROP, TEXT, Slots
from engine.data.picture_files import read_picture
from engine.data.source import RawSample, Source, stable_id

LABELS = {"False": 0, "True": 1}
OTHER_SIDE = {"left": "right", "right": "left"}


class Statements:
    """The statements of a file.

    Args:
        path: JSON.
        image_root: folder that relative paths start from; None takes the file's own folder.

    Raises:
        ConfigError: the file cannot be read, or a row is wrong or not complete; names it.
    """

    def __init__(self, path: Path, image_root: str | None) -> None:
        self.root = Path(image_root) if image_root else path.parent
        self._table = _read_table(path)
        self.lengths = [len(self._table)]

    def __len__(self) -> int:
        return len(self._table)

    @property
    def fingerprint(self) -> str:
        """Hash of all rows."""
        return fingerprint_of(self._table)

    def read(self, number: int) -> RawSample:
        """One statement; the left picture is `image`, the right one `second`."""
        row = {name: self._table[name][number].as_py() for name in self._table.column_names}
        (left, problem), (right, other) = (read_picture(self.root / n) for n in row["images"])
        return RawSample(
            key=row["identifier"],
            uid=row["identifier"],
            url="",
            captions=[row["sentence"]],
            image_id=stable_id(row["identifier"]),
            image=left,
            problem=problem or other,
            second=right,
            label=row["label"],
        )


def _read_table(path: Path) -> pa.Table:
    rows = read_list(path, "statements")
    columns: dict[str, list] = {n: [] for n in ("identifier", "images", "sentence", "label")}
    first_row: dict[str, int] = {}
    for number, row in enumerate(rows):
        problem = _problem(row)
        if problem:
            raise ConfigError(f"{path}: row {number} {problem}")
        identifier = str(row.get("identifier", number))
        if first_row.setdefault(identifier, number) != number:
            before = f"the identifier {identifier!r} of row {first_row[identifier]}"
            raise ConfigError(f"{path}: row {number} has {before}")
        columns["identifier"].append(_text(identifier))
        columns["images"].append([_text(name) for name in row["images"]])
        columns["sentence"].append(_text(row["sentence"]))
        columns["label"].append(LABELS[row["label"]])
    return pa.table(columns)


def _problem(row: Any) -> str | None:
    """What is wrong with a row, or None."""
    if not isinstance(row, dict):
        return f"is no statement: {str(row)[:40]!r}"
    images = row.get("images")
    two = isinstance(images, list) and len(images) == 2
    if not two or not all(isinstance(name, str) and name for name in images):
        return "has no two paths in 'images'"
    if not isinstance(row.get("sentence"), str) or not row["sentence"].strip():
        return f"({', '.join(images)}) has no 'sentence'"
    label = row.get("label")
    if not isinstance(label, str) or label not in LABELS:
        known = " nor ".join(repr(name) for name in reversed(LABELS))
        return f"({', '.join(images)}) has a 'label' that is neither {known}: {repr(label)[:40]}"
    return None


def _text(value: str) -> str:
    """Text that Arrow can hold."""
    return value.encode("utf-8", "replace").decode()


def open_statements(spec: str | Sequence[str], image_root: str | None = None) -> Source:
    """Open statements.

    Args:
        spec: JSON file (path, glob or `{0..3}` range), or a list of such.
        image_root: folder that relative picture paths start from.

    Raises:
        ConfigError: nothing there, another kind of file, or a row that is wrong.
    """
    what = ("statements", "statements about two pictures")
    return open_lists(spec, image_root, what, lambda path: Statements(path, image_root))


def swapped(sentence: str) -> str:
    """What is said when the pictures change places: the words left and right do, too."""
    return " ".join(OTHER_SIDE.get(word, word) for word in sentence.split(" "))


class StatementSlots(Slots):
    """Slot number to statement; half of them with their pictures, and so their sides, swapped."""

    open_source = staticmethod(open_statements)
    single = False

    def content(self, raw: RawSample, slot: int) -> tuple[torch.Tensor, str]:
        """[2, 3, H, H] uint8 and the sentence, as the slot's counters augment them."""
        sentence = clean_caption(raw.captions[0], self.data.max_words)
        draws = Draws(self.seed, CROP, slot)
        pixels = torch.stack([self.view(one, slot, draws) for one in (raw.image, raw.second)])
        if Draws(self.seed, TEXT, slot).below(2):
            return pixels.flip(0), swapped(sentence)
        return pixels, sentence


@dataclass
class StatementSet(HeldOut):
    """Held-out statements, in order and without augmentation; see `HeldOut`.

    Attributes:
        sentences: of the statements in `keys`, cleaned.
        labels: 1 where true.
    """

    sentences: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def views(self, batch_size: int) -> Iterator[torch.Tensor]:
        """[B, 2, 3, H, W] of every `batch_size` statements, this process's share.

        Collective at its end.

        Raises:
            ConfigError: not one usable statement.
        """
        for rows in self._parts(batch_size, "statement"):
            waiting: list[torch.Tensor] = []
            for number in rows:
                raw = self.source.read(number)
                try:
                    self._refuse_problem(raw)
                    sentence = clean_caption(raw.captions[0], self.max_words)
                    both = [decode_image(one, self.max_pixels) for one in (raw.image, raw.second)]
                except BadSample as bad:
                    self.bad.append((raw.key, bad.reason))
                    continue
                self.keys.append(raw.key)
                self.rows.append(number)
                self.sentences.append(sentence)
                self.labels.append(raw.label)
                waiting.append(torch.stack([evaluation_view(p, self.image_size) for p in both]))
            if waiting:
                yield torch.stack(waiting)
