"""A YAML file of settings, looked at before the parser reads it: its messages name no file."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from engine.config import ConfigError

# By these the parser imports what a file names and then refuses it: a stranger's would run code.
IMPORTING = ("class_path", "init_args", "dict_kwargs")


def refuse_unreadable(words: list[str], sections: set[str], lists: set[str]) -> None:
    """Look at every file that `--config` names.

    Args:
        words: of the command line.
        sections: names of sections, which are mappings.
        lists: names of lists of sections.

    Raises:
        ConfigError: a file that is missing, no YAML, no mapping, says a key twice, names something
            to import, or holds something else where a section belongs.
    """
    for word, following in pairwise([*words, ""]):
        if word == "--config" or word.startswith("--config="):
            _look_at(Path(word.partition("=")[2] or following), sections, lists)


def _look_at(path: Path, sections: set[str], lists: set[str]) -> None:
    if not path.is_file():
        raise ConfigError(f"--config {path}: no such file")
    try:
        text = path.read_text(encoding="utf-8")
        twice = next(_said_twice(yaml.compose(text, yaml.SafeLoader)), None)
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"--config {path}: not readable as YAML: {problem}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"--config {path}: holds no settings")
    if twice:
        raise ConfigError(f"--config {path}: {twice}: only one of them would count")
    for key, value in tree.items():
        if not isinstance(key, str) or key in ("config", *IMPORTING):
            raise ConfigError(f"--config {path}: unknown key {key!r}")
        for name in _importing(key, value):
            raise ConfigError(f"--config {path}: {name} names a class, which no setting is")
        for name, found in _no_mappings(key, value, sections, lists):
            raise ConfigError(f"--config {path}: {name} is a section of settings, got {found!r}")


def _importing(name: str, value: Any) -> Iterator[str]:
    """Keys anywhere below that make the parser import something."""
    if isinstance(value, dict):
        yield from (f"{name}.{key}" for key in IMPORTING if key in value)
        for key, inner in value.items():
            yield from _importing(f"{name}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _importing(name, inner)


def _no_mappings(
    name: str, value: Any, sections: set[str], lists: set[str]
) -> Iterator[tuple[str, Any]]:
    """Sections, sections of sections and in lists, that hold something else."""
    if name in lists:
        entries = value if isinstance(value, list) else [value]
        yield from ((name, entry) for entry in entries if not isinstance(entry, dict))
    if name not in sections:
        return
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _no_mappings(f"{name}.{key}", inner, sections, lists)


def _said_twice(node: yaml.Node | None) -> Iterator[str]:
    """`KEY stands in lines A and B` for keys that YAML would take the last of in silence."""
    if isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            yield from _said_twice(entry)
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            yield f"{name} stands in lines {lines[name]} and {line}"
        lines[name] = line
        yield from _said_twice(value)
