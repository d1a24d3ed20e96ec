"""Lists of (url, alt text), read in pieces: CSV, TSV, Parquet, JSON lines. Never held whole."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from engine.config import ConfigError
from engine.data.annotations import CAPTION_COLUMNS
from engine.data.open_source import named_paths
from engine.data.separated import COMMA, TAB, rows_of

URL_COLUMNS = ("url", "image_url", "img_url", "picture_url", "link")
CAPTION_NAMES = (*CAPTION_COLUMNS, "alt", "alttext", "description")
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
ROWS = 1024
MAX_LINE = 1 << 20


@dataclass(frozen=True)
class Row:
    """A row of the lists.

    Attributes:
        number: counted through all lists, from 0.
        url: as it stands there; None where it is no text.
        caption: likewise.
    """

    number: int
    url: str | None
    caption: str | None


class Lists:
    """All rows of some lists, in order.

    Args:
        named: files, globs, ranges.

    Raises:
        ConfigError: none named, not there, of an unknown kind, or without a column that is needed.
    """

    def __init__(self, named: list[str]) -> None:
        named = [name for name in named if name]
        if not named:
            raise ConfigError("no list: set pairs to .csv, .tsv, .parquet or .jsonl files")
        self.paths = [path for name in named for path in named_paths(name)]
        for path in self.paths:
            if not path.is_file():
                problem = "is a folder" if path.is_dir() else "no such file"
                raise ConfigError(f"{path}: {problem}; set pairs to lists of URLs")
            if path.suffix not in SUFFIXES:
                raise ConfigError(f"{path}: none of {', '.join(SUFFIXES)}")

    def rows(self) -> Iterator[Row]:
        """Every row.

        Raises:
            ConfigError: a file that is not readable as what it is called.
        """
        number = 0
        for path in self.paths:
            try:
                for url, caption in _READERS[path.suffix](path):
                    yield Row(number, _text(url), _text(caption))
                    number += 1
            except ConfigError:
                raise
            except (OSError, ValueError, pa.ArrowException) as error:
                problem = " ".join(str(error).split())
                kind = path.suffix[1:]
                raise ConfigError(f"{path}: not readable as {kind}: {problem}") from None

    def fingerprint(self) -> str:
        """Hash of all bytes."""
        state = xxhash.xxh3_128()
        for path in self.paths:
            state.update(path.stat().st_size.to_bytes(8, "little"))
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    state.update(part)
        return state.hexdigest()


def pieces(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Rows in lists of `size`; the last may be shorter."""
    while piece := list(islice(rows, size)):
        yield piece


def _text(value: Any) -> str | None:
    """Text that any file can hold."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else None


def _separated(path: Path) -> Iterator[tuple[Any, Any]]:
    """Of a row that is none, or has more fields than there are columns, both are None; of one that
    is too short what is missing is, and so is what is not UTF-8."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = rows_of(file, TAB if path.suffix == ".tsv" else COMMA)
        head = next(rows, None)
        if head is None:
            raise ConfigError(f"{path}: no rows")
        places = [head.index(name) for name in _columns(path, head)]
        for row in rows:
            fields: list[str | None] = list(row or ())
            if any(fields[len(head) :]):
                fields = []
            fields += [None] * (len(head) - len(fields))
            url, caption = (fields[place] for place in places)
            yield _if_whole(url), _if_whole(caption)


def _if_whole(field: str | None) -> str | None:
    """None where bytes were no UTF-8: what another encoding means by them is not known."""
    try:
        return field if field is None else field.encode().decode()
    except UnicodeEncodeError:
        return None


def _parquet(path: Path) -> Iterator[tuple[Any, Any]]:
    with pq.ParquetFile(path) as file:
        names = _columns(path, file.schema_arrow.names)
        for batch in file.iter_batches(ROWS, columns=list(names)):
            yield from zip(*(batch[name].to_pylist() for name in names), strict=True)


def _json_lines(path: Path) -> Iterator[tuple[Any, Any]]:
    """What is no JSON object has neither; names are looked for in each line."""
    with path.open("rb") as file:
        found = False
        while line := file.readline(MAX_LINE):
            whole = len(line) < MAX_LINE
            while len(line) == MAX_LINE:
                line = file.readline(MAX_LINE)
            if whole and not line.strip():
                continue
            try:
                facts = json.loads(line if whole else b"")
            except (ValueError, RecursionError):
                facts = None
            names = {str(n).lower(): n for n in facts} if isinstance(facts, dict) else {}
            if names and not found:
                _columns(path, list(names))
                found = True
            chosen = [next((n for n in known if n in names), None) for known in _KNOWN]
            yield tuple(None if n is None else facts[names[n]] for n in chosen)


_KNOWN = (URL_COLUMNS, CAPTION_NAMES)
_READERS = {".csv": _separated, ".tsv": _separated, ".parquet": _parquet, ".jsonl": _json_lines}


def _columns(path: Path, head: list[str]) -> tuple[str, str]:
    """Names of the columns of URLs and captions, in any case."""
    folded = {name.strip().lower(): name for name in reversed(head)}
    chosen = []
    for known, what in zip(_KNOWN, ("URLs", "captions"), strict=True):
        name = next((folded[name] for name in known if name in folded), None)
        if name is None:
            found = ", ".join(head)[:200]
            raise ConfigError(f"{path}: no column of {what} ({', '.join(known)}); found: {found}")
        chosen.append(name)
    return chosen[0], chosen[1]
