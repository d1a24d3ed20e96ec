"""What a command is given to work on, a sample at a time: files, folders, shards, lists."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from engine.config import ConfigError
from engine.data.annotations import SUFFIXES as LISTS
from engine.data.annotations import Annotations
from engine.data.open_source import named_paths
from engine.data.picture_files import SUFFIXES, find_files, read_picture
from engine.data.shards import Shards
from engine.data.source import RawSample, Source

SHARD = ".tar"
Read = Callable[[], RawSample]


class PictureFiles:
    """Picture files, which have no texts.

    Args:
        paths: of them.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths, self.lengths = paths, [len(paths)]

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def fingerprint(self) -> str:
        """The names."""
        return "\0".join(map(str, self._paths))

    def read(self, number: int) -> RawSample:
        """A file; what is wrong with it is its `problem`."""
        path = self._paths[number]
        content, problem = read_picture(path)
        return RawSample(str(path), str(path), "", [], 0, content, problem)


@dataclass(frozen=True)
class Place:
    """Where samples are.

    Attributes:
        open: gives them.
        within: what stands before the key of a sample to make its path.
    """

    open: Callable[[], Source]
    within: str = ""

    def reads(self) -> Iterator[Read]:
        """What reads each sample; its key is its path: `FILE`, or `SHARD.tar/KEY`."""
        source = self.open()
        for number in range(len(source)):
            yield partial(self._read, source, number)

    def _read(self, source: Source, number: int) -> RawSample:
        sample = source.read(number)
        return replace(sample, key=os.path.join(self.within, sample.key))


def find_places(
    named: Sequence[str], image_root: str | None, refuse: Callable[[str, str], None]
) -> tuple[list[Place], int]:
    """What names stand for, and how many samples that is. Shards without an index get one.

    Args:
        named: files, folders, shards, lists, globs, ranges.
        image_root: folder that relative picture paths of a list start from; null: its own.
        refuse: told name and reason of each that cannot be used.
    """
    places: list[Place] = []
    count, files = 0, []

    def end_of_files() -> None:
        if files:
            places.append(Place(partial(PictureFiles, tuple(files))))
            files.clear()

    for name in named:
        try:
            paths = [path for one in _paths(name) for path in _inside(one)]
        except ConfigError as error:
            refuse(name, str(error).removeprefix(f"{name}: "))
            continue
        for path in paths:
            if path.suffix.lower() not in (SHARD, *LISTS):
                files.append(path)
                count += 1
                continue
            end_of_files()
            place = _place(path, image_root)
            try:
                count += len(place.open())
            except ConfigError as error:
                refuse(str(path), str(error).removeprefix(f"{path}: "))
                continue
            places.append(place)
    end_of_files()
    return places, count


def _place(path: Path, image_root: str | None) -> Place:
    if path.suffix.lower() == SHARD:
        return Place(partial(Shards, [path]), str(path))
    return Place(partial(Annotations, path, image_root), str(image_root or path.parent))


def _paths(name: str) -> list[Path]:
    """A file may be called like a glob or a range."""
    return [Path(name)] if os.path.lexists(name) else named_paths(name)


def _inside(path: Path) -> list[Path]:
    if not os.path.isdir(path):
        return [path]
    found = find_files(path, (*SUFFIXES, SHARD))
    if not found:
        raise ConfigError("no picture or shard in this folder")
    return found
