"""Videos as annotation files name them, and as they lie on the disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.data.picture_files import read_picture

SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov")
# How rows name their video; MSRVTT's clip_name and video_id leave the ending out.
NAMES = ("video", "clip_name", "video_id")
# What MSRVTT-QA's and MSVD-QA's numbers stand for.
NUMBERED = ("video{}", "vid{}")
MAX_BYTES = 256 << 20


def video_of(row: dict[str, Any]) -> str | None:
    """The name of a row's video, a number as its text; None where it has none."""
    for key in NAMES:
        name = row.get(key)
        if isinstance(name, str) and name:
            return name.encode("utf-8", "replace").decode()
        if isinstance(name, int) and not isinstance(name, bool):
            return str(name)
    return None


def read_video(root: Path, name: str) -> tuple[bytes | None, str | None]:
    """A video's bytes, or why they cannot be had.

    Args:
        root: folder that the name starts from.
        name: of the file, with its ending or without; or a number as the data sets give it.
    """
    try:
        for path in _places(root, name):
            if path.exists():
                return read_picture(path, MAX_BYTES)
    except (OSError, ValueError):
        return None, "unreadable_name"
    return None, "missing"


def _places(root: Path, name: str) -> Sequence[Path]:
    if name.lower().endswith(SUFFIXES):
        return [root / name]
    stems = [*(form.format(name) for form in NUMBERED if name.isdigit()), name]
    return [root / f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES]
