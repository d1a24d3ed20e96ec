"""Picture files of a folder, and names as they can be shown."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import ConfigError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# Of a picture or another part of a sample; a larger one is not read.
MAX_BYTES = 64 << 20
# Characters that a line about a picture has room for; a member's name may have a thousand times as
# many.
LONGEST_NAME = 1000


def find_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Files below a folder with one of these endings, in order of their names; links to folders
    are not followed. Links that lead nowhere and pipes count: whoever opens one says so.

    Raises:
        ConfigError: a folder that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise ConfigError(f"{printable(error.filename)}: {error.strerror}")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            if path.suffix.lower() in suffixes and not name.startswith("."):
                found.append(path)
    return sorted(found)


def read_picture(path: Path, max_bytes: int = MAX_BYTES) -> tuple[bytes | None, str | None]:
    """A file's bytes, or why they cannot be had."""
    try:
        if not path.is_file():
            return None, "no_file" if path.exists() else "missing"
        if path.stat().st_size > max_bytes:
            return None, "file_too_large"
        return path.read_bytes(), None
    except FileNotFoundError:
        return None, "missing"
    except PermissionError:
        return None, "not_permitted"
    except (OSError, ValueError, UnicodeError):
        return None, "unreadable_name"


def is_pipe(path: str | Path) -> bool:
    """Whether something else than a file or a folder is there: who opens it may wait for ever."""
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def printable(name: Any) -> str:
    """A name on one line: what cannot be printed (line ends, tabs, bytes that are no text) as an
    escape."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(name))


def first_of(names: Sequence[Any], most: int = 5, between: str = ", ") -> str:
    """`a, b and 7 more`: no more names than a line has room for.

    Args:
        names: all of them.
        most: that are said.
        between: two of them.
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return printable(between.join(map(str, names[:most]))) + more


def bounded(name: str) -> str:
    """A stranger's name, as long as a line about it has room for."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
