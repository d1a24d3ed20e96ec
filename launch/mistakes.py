"""All mistakes of a command line and its files, where the parser stops at the first."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from engine.config import ConfigError
from engine.differences import flat
from launch.cli import parse

Config = TypeVar("Config")
MEANT = r"did you mean '([\w.]+)'"


def parse_on(
    kind: type[Config], words: Sequence[str], *, description: str, examples: str
) -> tuple[Config | None, list[str], set[str]]:
    """As `parse`, but a setting that is wrong is left out, and what is left is read again.

    Args:
        kind: dataclass to fill.
        words: behind the program's name.
        description: first line of `--help`.
        examples: commands shown at the end of `--help`.

    Returns:
        The configuration with defaults for what was left out, None where that was not enough; a
        line for each mistake; and the settings that were left out, or meant by what is misspelt.
    """
    about = {"description": description, "examples": examples}
    try:
        return parse(kind, words, **about), [], set()
    except ConfigError as error:
        mistakes = [str(error)]
    if mistakes[0].startswith("--config"):
        # The file itself: nothing can be read of it.
        return None, mistakes, set()
    tree, flags = _given(words)
    given = {*tree, *map(_key, flags)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        while _leave_out(mistakes[-1], tree, flags):
            file.write_text(yaml.safe_dump(_nested(tree)), encoding="utf-8")
            files = ["--config", str(file)] if tree else []
            try:
                config = parse(kind, [*files, *(w for flag in flags for w in flag)], **about)
            except ConfigError as error:
                mistakes.append(str(error))
                continue
            meant = {key for line in mistakes for key in re.findall(MEANT, line)}
            return config, mistakes, meant | given - {*tree, *map(_key, flags)}
    return None, mistakes, given


def _given(words: Sequence[str]) -> tuple[dict[str, Any], list[list[str]]]:
    """Settings of all files by dotted key, later ones over earlier ones, and flags with values."""
    tree: dict[str, Any] = {}
    flags: list[list[str]] = []
    for word in words:
        if word.startswith("--") or not flags or len(flags[-1]) > 1 or "=" in flags[-1][0]:
            flags.append([word])
        else:
            flags[-1].append(word)
    files = [f for f in flags if f[0] == "--config" or f[0].startswith("--config=")]
    for flag in files:
        path = Path(flag[1] if len(flag) > 1 else flag[0].partition("=")[2])
        tree |= flat(yaml.safe_load(path.read_text(encoding="utf-8")))
    return tree, [flag for flag in flags if flag not in files]


def _key(flag: list[str]) -> str:
    return flag[0].lstrip("-").partition("=")[0]


def _leave_out(mistake: str, tree: dict[str, Any], flags: list[list[str]]) -> bool:
    """Take out the settings that a mistake names; whether there were any."""
    named = mistake.partition(": did you mean")[0]
    section = mistake.partition(":")[0] if re.match(r"[\w.]+: ", mistake) else ""
    keys = [key for key in tree if _names(named, key, section)]
    wrong = [f for f in flags if _names(named, _key(f), section)]
    for key in keys:
        del tree[key]
    for flag in wrong:
        flags.remove(flag)
    return bool(keys or wrong)


def says(line: str, key: str) -> bool:
    """Whether a line names a setting in full."""
    return bool(re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", line))


def _names(mistake: str, key: str, section: str) -> bool:
    """Whether a mistake names a setting: in full, or by its last part behind its section."""
    if says(mistake, key):
        return True
    above, _, leaf = key.rpartition(".")
    # As presets do: "model: unknown preset".
    return bool(above) and above == section and bool(re.search(rf"\b{leaf}\b", mistake))


def _nested(tree: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as sections."""
    nested: dict[str, Any] = {}
    for key, value in tree.items():
        *sections, leaf = key.split(".")
        place = nested
        for name in sections:
            place = place.setdefault(name, {})
        place[leaf] = value
    return nested
