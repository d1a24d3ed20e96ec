"""Hugging Face datasets as `save_to_disk` leaves them: a folder of Arrow streams, or one a split.

Read with Arrow alone. `state.json` names the files, each an IPC stream; a picture is a struct of
its bytes and its path, either of which may be null. These files have no hashes: what is packed
from them has.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from engine.config import ConfigError
from engine.data.annotations import CAPTION_COLUMNS, IMAGE_COLUMNS
from engine.data.arrow_messages import is_compressed
from engine.data.picture_files import read_picture
from engine.data.source import RawSample, stable_id

STATE, SPLITS = "state.json", "dataset_dict.json"
NUMBERED = re.compile(r"(?:caption|text)_?\d+")
# Without it a stream was cut, at a place where the next batch might have begun.
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
# Columns that are taken where there are any.
ABOUT = ("uid", "url", "image_id")
PLAIN = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
BINARY = (pa.binary(), pa.large_binary())


def is_saved(folder: Path) -> bool:
    """Whether a folder is a saved dataset, or several splits of one."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def of_split(folder: Path, split: str | None) -> Path:
    """The folder of one dataset.

    Args:
        folder: a saved dataset, or one with splits.
        split: which; None where there are none.

    Raises:
        ConfigError: there are splits and none is named, or another one.
    """
    if not (folder / SPLITS).is_file():
        if split is not None:
            raise ConfigError(f"{folder}: has no splits; leave out --split {split}")
        return folder
    names = _facts(folder / SPLITS).get("splits")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{folder / SPLITS}: names no splits")
    if split not in names:
        wrong = "" if split is None else f"no split {split!r}; "
        raise ConfigError(
            f"{folder}: {wrong}name one of its splits with --split: {', '.join(names)}"
        )
    return folder / split


class SavedDataset:
    """The pairs of a saved dataset.

    Args:
        folder: as `save_to_disk` made it.
        image_root: folder that relative paths of pictures start from; None takes the dataset's.

    Raises:
        ConfigError: a file is missing, cut or damaged, which names it and the row; or no column of
            pictures or captions.
    """

    def __init__(self, folder: Path, image_root: str | None) -> None:
        self.folder, self.root = folder, Path(image_root) if image_root else folder
        state = _facts(folder / STATE)
        self.paths = _files_of(folder, state)
        # Given by the library, to the content.
        self._name = str(state.get("_fingerprint") or folder.name)
        self._file, self._batches, self._rows = -1, [], np.zeros(1, np.int64)
        schema = _batches(self.paths[0])[0]
        try:
            self._image = _image_column(folder, schema)
            self._captions = _caption_columns(folder, schema)
            _refuse_columns(folder, schema)
        except UnicodeDecodeError as error:
            # Arrow decodes the names of columns when they are looked at.
            raise _damaged(self.paths[0], 0, error) from None
        self.lengths = [self._checked(path, schema) for path in self.paths]
        self._starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        """Hash of what the library calls this content, and of its length."""
        return xxhash.xxh3_128_hexdigest(f"{self._name} {len(self)}".encode())

    def read(self, number: int) -> RawSample:
        """The pair of this number."""
        row = self._row(number)
        picture = row[self._image]
        content, path = picture, None
        if isinstance(picture, dict):
            content, path = picture["bytes"], picture["path"]
        elif isinstance(picture, str):
            content, path = None, picture
        problem = None
        if content is None:
            content, problem = read_picture(self.root / path) if path else (None, "missing")
        uid = str(row.get("uid") or f"{self._name}-{number}")
        texts = [row[name] for name in self._captions]
        flat = [one for text in texts for one in (text if isinstance(text, list) else [text])]
        return RawSample(
            key=f"{number:09d}",
            uid=uid,
            url=str(row.get("url") or ""),
            captions=[text for text in flat if text is not None],
            image_id=stable_id(uid if row.get("image_id") is None else row["image_id"]),
            image=content,
            problem=problem,
        )

    def _row(self, number: int) -> dict[str, Any]:
        file = int(np.searchsorted(self._starts, number, "right")) - 1
        if self._file != file:
            # One after the other: of the others nothing stays mapped.
            self._file, self._batches = file, _batches(self.paths[file])[1]
            self._rows = np.concatenate([[0], np.cumsum([len(one) for one in self._batches])])
        inside = number - int(self._starts[file])
        place = int(np.searchsorted(self._rows, inside, "right")) - 1
        batch, row = self._batches[place], inside - int(self._rows[place])
        there = [name for name in (*self._captions, *ABOUT) if name in batch.schema.names]
        picture = batch[self._image][row]
        if isinstance(picture, pa.StructScalar) and picture.is_valid:
            # What else it holds may be nothing that Python has a value for.
            picture = {name: picture[name].as_py() for name in ("bytes", "path")}
        else:
            picture = picture.as_py()
        return {self._image: picture} | {name: batch[name][row].as_py() for name in there}

    def _checked(self, path: Path, schema: pa.Schema) -> int:
        """Rows of a file; Arrow trusts what it maps, so that it is looked at first."""
        found, batches = _batches(path)
        if not found.equals(schema):
            raise ConfigError(f"{path}: has other columns than {self.paths[0].name}")
        rows = 0
        for batch in batches:
            try:
                batch.validate(full=True)
            except pa.ArrowException as error:
                raise _damaged(path, rows, error) from None
            rows += len(batch)
        return rows


def _files_of(folder: Path, facts: dict[str, Any]) -> list[Path]:
    if facts.get("_indices_data_files") or facts.get("_indices_files"):
        raise ConfigError(
            f"{folder}: a selection of rows beside the data, as old versions of datasets save it: "
            "load it, flatten_indices() and save it again"
        )
    named = facts.get("_data_files")
    if not isinstance(named, list) or not named:
        raise ConfigError(f"{folder / STATE}: names no data files")
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in named]
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ConfigError(f"{folder / STATE}: {name!r} is not the name of a file beside it")
    return [folder / name for name in names]


def _facts(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problem = getattr(error, "strerror", None) or "not readable as JSON"
        raise ConfigError(f"{path}: {problem}") from None
    return found if isinstance(found, dict) else {}


def _batches(path: Path) -> tuple[pa.Schema, list[pa.RecordBatch]]:
    """Schema and batches of a stream, mapped and not read.

    Raises:
        ConfigError: names the file and the row where it breaks off.
    """
    batches: list[pa.RecordBatch] = []
    if is_compressed(path):
        raise ConfigError(
            f"{path}: is compressed, as datasets never saves it: load and save it again"
        )
    try:
        with pa.memory_map(str(path)) as file:
            end = file.size() - len(END_OF_STREAM)
            whole = end >= 0 and file.read_at(len(END_OF_STREAM), end) == END_OF_STREAM
            file.seek(0)
            with pa.ipc.open_stream(file) as stream:
                schema = stream.schema
                batches.extend(stream)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, sum(map(len, batches)), error) from None
    if not whole:
        raise _damaged(path, sum(map(len, batches)), "the end of the file is missing")
    return schema, batches


def _damaged(path: Path, row: int, why: object) -> ConfigError:
    if isinstance(why, FileNotFoundError):
        return ConfigError(f"{path}: no such file")
    said = " ".join(str(why).split())[:200]
    return ConfigError(f"{path}: cannot be read from row {row} on: {said}")


def _image_column(folder: Path, schema: pa.Schema) -> str:
    """A known name, or the one column that holds pictures."""
    for name in IMAGE_COLUMNS:
        if name in schema.names and _holds_pictures(schema.field(name).type, named=True):
            return name
    found = [one.name for one in schema if _holds_pictures(one.type, named=False)]
    if len(found) == 1:
        return found[0]
    problem = f"several columns of pictures, {', '.join(found)}: rename one to 'image'"
    if not found:
        problem = f"no column of pictures; found: {', '.join(schema.names)}"
    raise ConfigError(f"{folder}: {problem}")


def _holds_pictures(kind: pa.DataType, *, named: bool) -> bool:
    if not pa.types.is_struct(kind):
        return named and (_is_text(kind) or kind in BINARY)
    fields = [kind.field(n) for n in range(kind.num_fields)]
    types = {field.name: field.type for field in fields}
    if len(types) < len(fields) or not types.keys() >= {"bytes", "path"}:
        return False
    return types["bytes"] in BINARY and (_is_text(types["path"]) or pa.types.is_null(types["path"]))


def _refuse_columns(folder: Path, schema: pa.Schema) -> None:
    """Two of one name; or one of `ABOUT` of values, such as times, that need not fit Python's."""
    twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise ConfigError(f"{folder}: several columns named {twice[0]!r}")
    for one in schema:
        if one.name in ABOUT and not (_is_text(one.type) or any(of(one.type) for of in PLAIN)):
            problem = f"holds {one.type}, no texts or numbers: cast it, or rename it"
            raise ConfigError(f"{folder}: column {one.name!r} {problem}")


def _caption_columns(folder: Path, schema: pa.Schema) -> list[str]:
    """A known name, or all of caption_0, caption_1, ...; a column of numbers is none."""
    texts = [one.name for one in schema if _is_text(one.type) or _is_texts(one.type)]
    for name in CAPTION_COLUMNS:
        if name in texts:
            return [name]
    if numbered := [name for name in texts if NUMBERED.fullmatch(name)]:
        return numbered
    wanted, found = ", ".join(CAPTION_COLUMNS), ", ".join(schema.names)
    raise ConfigError(f"{folder}: no column of texts named {wanted} or caption_0; found: {found}")


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_texts(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type)
