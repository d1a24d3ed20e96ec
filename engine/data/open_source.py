"""From what a user names to the pairs it means: shards, a folder of them, or a list."""

import glob
import logging
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import xxhash

from engine.config import ConfigError
from engine.data.annotations import SUFFIXES, Annotations, differ
from engine.data.class_folders import ClassFolders, has_classes
from engine.data.kept_texts import NOTHING_KEPT, KeptTexts, is_cleaned
from engine.data.saved_datasets import is_saved
from engine.data.shards import Shards
from engine.data.source import RawSample, Source, of_several

log = logging.getLogger(__name__)
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Joined:
    """Several sources, one after the other. Where they are not of one folder, or one number means
    different pictures there, pictures are known by their bytes, and keys of the second set end in
    `+1`."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = parts
        folders = {getattr(part, "root", part) for part in parts}
        lists = [part for part in parts if isinstance(part, Annotations)]
        self._several = len(folders) > 1 or differ(lists)
        self.lengths = [length for part in parts for length in part.lengths]
        self._starts = [0, *accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    @property
    def fingerprint(self) -> str:
        """Hash over the parts."""
        joined = "".join(part.fingerprint for part in self.parts)
        return xxhash.xxh3_128_hexdigest(joined.encode())

    def read(self, number: int) -> RawSample:
        """The pair of this number."""
        part = bisect_right(self._starts, number) - 1
        sample = self.parts[part].read(number - self._starts[part])
        return of_several(sample, f"+{part}" if part else "") if self._several else sample


def open_source(
    spec: str | Sequence[str],
    image_root: str | None = None,
    *,
    classes: bool = False,
    textless: bool = False,
) -> Source:
    """Open pairs.

    Args:
        spec: tar shards (path, folder, glob, `{00000..00009}` range) or an annotation file
            (.json, .csv, .tsv, .parquet), or the output folder of captioning and filtering (a
            pair a kept text), or a list of such.
        image_root: folder that relative picture paths of an annotation file start from.
        classes: whether a folder may be one with a folder of pictures for each class.
        textless: see `Annotations`.

    Raises:
        ConfigError: nothing there, an unknown kind of file, or no pair in it.
    """
    specs = [spec] if isinstance(spec, str) else list(spec) or [""]
    paths = [path for one in specs for path in expand(one, classes=classes)]
    tars = [path for path in paths if path.suffix == ".tar"]
    folders = [path for path in paths if path.is_dir()]
    lists = [path for path in paths if path.suffix != ".tar" and not path.is_dir()]
    if lists and image_root and not Path(image_root).is_dir():
        raise ConfigError(f"data.image_root {image_root}: no such folder")
    parts: list[Source] = [Shards(tars)] if tars else []
    parts += [KeptTexts(path) if is_cleaned(path) else ClassFolders(path) for path in folders]
    parts += [Annotations(path, image_root, textless) for path in lists]
    source = parts[0] if len(parts) == 1 else Joined(parts)
    empty = [part.folder for part in parts if isinstance(part, KeptTexts) and not len(part)]
    if not len(source):
        why = f"; {NOTHING_KEPT}" if empty else ""
        raise ConfigError(f"{', '.join(specs)}: no picture-caption pair in it{why}")
    for folder in empty:
        log.warning("%s: %s; the other pairs alone are used", folder, NOTHING_KEPT)
    return source


def named_paths(spec: str) -> list[Path]:
    """Paths that a glob or a `{00000..00009}` range stands for; a range's may be missing.

    Raises:
        ConfigError: a URL, a glob that nothing matches, or a range without a number.
    """
    if "://" in spec:
        raise ConfigError(f"{spec}: a URL; only files of this machine are read here: copy it first")
    paths = []
    for name in filled_ranges(spec):
        if glob.has_magic(name) and not Path(name).exists():
            matching = sorted(glob.glob(name, recursive=True))
            if not matching:
                raise ConfigError(f"{name}: no file matches")
            paths += [Path(match) for match in matching]
        else:
            paths.append(Path(name))
    return paths


def expand(spec: str, *, classes: bool = False) -> list[Path]:
    """Shards, lists and folders that a user means; every one is there, and none is opened.

    Raises:
        ConfigError: nothing there, or an unknown kind of file.
    """
    if not spec:
        raise ConfigError("no data given: set data.train to shards or an annotation file")
    found = []
    for path in named_paths(spec):
        if is_cleaned(path):
            found.append(path)
        elif path.is_dir():
            inside = sorted(path.glob("*.tar"))
            if not inside and classes and has_classes(path):
                inside = [path]
            if not inside:
                hint = ", and no folder of pictures for each class" if classes else ""
                hint = " but a saved dataset: launch/pack.py convert" if is_saved(path) else hint
                raise ConfigError(f"{path}: no .tar shard in this folder{hint}")
            found += inside
        elif not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
        elif path.suffix not in (".tar", *SUFFIXES):
            raise ConfigError(f"{path}: neither a .tar shard nor one of {', '.join(SUFFIXES)}")
        else:
            found.append(path)
    return found


def filled_ranges(spec: str) -> list[str]:
    """`a{00..02}` -> a00, a01, a02.

    Raises:
        ConfigError: a range without a number.
    """
    match = RANGE.search(spec)
    if not match:
        return [spec]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    if not numbers:
        raise ConfigError(f"{spec}: no number lies in {match[0]}")
    filled = [spec.replace(match[0], str(n).zfill(len(first)), 1) for n in numbers]
    return [name for one in filled for name in filled_ranges(one)]
