"""Annotations that come as JSON: questions, statements, dialogues; or as a row a line."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.config import ConfigError
from engine.data.annotations import kind_of
from engine.data.open_source import Joined, named_paths
from engine.data.source import Source

JSON, JSON_LINES = (".json",), (".json", ".jsonl")


def read_json(path: Path) -> Any:
    """What a file holds; of JSON lines the list of them.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        # Editors of other systems write a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
        if not text.strip():
            raise ValueError("it is empty")
        return _lines(text) if path.suffix == ".jsonl" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path}: not readable as json: {problem}") from None


def read_list(path: Path, what: str) -> list[Any]:
    """The rows of a file.

    Args:
        path: JSON, or JSON lines where it ends in `.jsonl`.
        what: the rows are, in the plural.

    Raises:
        ConfigError: the file cannot be read, or holds no list of rows.
    """
    rows = read_json(path)
    if not isinstance(rows, list) or not rows:
        raise ConfigError(f"{path}: expected a list of {what}, found {kind_of(rows)}")
    return rows


def _lines(text: str) -> list[Any]:
    rows = []
    # Texts may hold what splitlines takes for a line's end.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return rows


def open_lists(
    spec: str | Sequence[str],
    image_root: str | None,
    what: tuple[str, str],
    open_list: Callable[[Path], Source],
    suffixes: tuple[str, ...] = JSON,
) -> Source:
    """Open files of rows, one after the other.

    Args:
        spec: file (path, glob or `{0..3}` range), or a list of such.
        image_root: folder that relative picture paths start from.
        what: the rows are, in the plural: in a word, and in full.
        open_list: opens a file.
        suffixes: that files may have.

    Raises:
        ConfigError: nothing there, or another kind of file.
    """
    specs = [spec] if isinstance(spec, str) else list(spec)
    if not any(specs):
        raise ConfigError(f"no data given: set data.train to a JSON file of {what[0]}")
    if image_root and not Path(image_root).is_dir():
        raise ConfigError(f"data.image_root {image_root}: no such folder")
    parts = []
    for path in (path for one in specs for path in named_paths(one)):
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        if path.suffix not in suffixes:
            raise ConfigError(f"{path}: {what[1]} come in a {' or '.join(suffixes)} file")
        parts.append(open_list(path))
    return parts[0] if len(parts) == 1 else Joined(parts)
