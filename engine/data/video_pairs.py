"""Videos with captions, from MSRVTT (Xu et al. 2016) and the like.

They come in the JSON or JSON lines that BLIP reads:

    {"clip_name": "video7020", "caption": "a cartoon shows two dogs talking to a bird"}

A row may name its file as `video` instead, and have a list of captions; rows of one video are
several captions of it.
"""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch

from engine.config import ConfigError, DataSection
from engine.data.annotations import Annotations, table_of_rows
from engine.data.counter import Draws
from engine.data.json_lists import JSON_LINES, open_lists, read_list
from engine.data.loader import Slots
from engine.data.source import Source
from engine.data.video_files import read_video, video_of
from engine.data.videos import decode_video


class VideoPairs(Annotations):
    """The videos and captions of a file; a sample's `image` is an encoded video.

    Args:
        path: JSON or JSON lines.
        image_root: folder that names of videos start from; None takes the file's own folder.

    Raises:
        ConfigError: the file cannot be read, or a row is wrong or not complete; names it.
    """

    @staticmethod
    def table(path: Path) -> Any:
        """The rows, checked."""
        rows = read_list(path, "videos with captions")
        for number, row in enumerate(rows):
            problem = _problem(row)
            if problem:
                raise ConfigError(f"{path}: row {number} {problem}")
        return table_of_rows(path, [row | {"image": video_of(row)} for row in rows])

    def content(self, name: str) -> tuple[bytes | None, str | None]:
        """The encoded video of this name, or why it cannot be had."""
        return read_video(self.root, name)


def _problem(row: Any) -> str | None:
    """What is wrong with a row, or None."""
    if not isinstance(row, dict):
        return f"is no video with a caption: {str(row)[:40]!r}"
    name = video_of(row)
    if name is None:
        return "has no 'video' or 'clip_name'"
    captions = row.get("caption")
    captions = captions if isinstance(captions, list) else [captions]
    if not captions or not all(isinstance(text, str) and text.strip() for text in captions):
        return f"({name}) has no 'caption'"
    return None


def open_videos(spec: str | Sequence[str], image_root: str | None = None) -> Source:
    """Open videos with captions.

    Args:
        spec: JSON or JSON lines (path, glob or `{0..3}` range), or a list of such.
        image_root: folder that names of videos start from.

    Raises:
        ConfigError: nothing there, another kind of file, or a row that is wrong.
    """
    what = ("videos", "videos with captions")
    return open_lists(spec, image_root, what, lambda p: VideoPairs(p, image_root), JSON_LINES)


class VideoSlots(Slots):
    """Slot number to video and caption."""

    open_source = staticmethod(open_videos)
    single = False

    @staticmethod
    def frames(data: DataSection) -> int:
        """Pictures that a sample is seen by."""
        return data.frames

    def view(self, content: bytes | None, slot: int, draws: Draws) -> torch.Tensor:
        """Encoded video -> frames [F, 3, H, H] uint8, all augmented alike.

        Raises:
            BadSample: it cannot be used.
        """
        augmentation = self.augmentation(slot)
        frames = decode_video(content, self.data.frames, self.data.max_pixels)
        return torch.stack([augmentation(frame, copy(draws)) for frame in frames])
