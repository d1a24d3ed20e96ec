"""Pictures as users have them: files, folders, encoded bytes, opened ones, arrays. Read lazily."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import Image

from engine.config import ConfigError
from engine.data.images import BadSample, decode_image, refuse_size, to_rgb
from engine.data.picture_files import SUFFIXES, find_files, is_pipe, printable
from engine.data.whole_views import brought, carried
from engine.given import refuse_wrong, require_many

ENCODED = bytes | bytearray | memoryview
Picture = str | Path | ENCODED | BinaryIO | Image.Image | np.ndarray
Pictures = Picture | Iterable[Picture]
MAX_PIXELS = 25_000_000
# By the kind of an array what may stand behind its height and width.
COLOURS = {"u1": ((), (2,), (3,), (4,)), "u2": ((),), "b1": ((),)}
THREADS = 4
SKIPPING = "; leave it out: launch/caption.py and launch/embed.py name bad pictures and go on"
# Pillow reads pixels late and keeps the file: one object twice must not meet two threads.
LOADING = threading.Lock()

Thing = TypeVar("Thing")
Made = TypeVar("Made")


def find_pictures(folder: str | Path) -> list[Path]:
    """Every picture below a folder by its ending, in order of their names; hidden ones are not.

    Raises:
        ConfigError: the folder cannot be read, or holds none.
    """
    found = find_files(Path(folder), SUFFIXES)
    if not found:
        raise ConfigError(f"{printable(folder)}: no picture in it ({', '.join(SUFFIXES)})")
    return found


def given_pictures(images: Pictures) -> list[Picture] | Iterator[Picture]:
    """What is given as pictures, none opened yet; a folder stands for the pictures below it.

    Returns:
        A list where their number is known, else an iterator.

    Raises:
        ConfigError: no picture given, or a folder without any.
    """
    many = [images] if _is_picture(images) else images
    require_many(many, "images", "pictures")
    pictures = _unfolded(many)
    if not hasattr(many, "__len__"):
        return pictures
    if listed := list(pictures):
        return listed
    raise ConfigError("no picture given")


def is_one(images: Pictures) -> bool:
    """Whether a single picture is given, and no list or folder."""
    folder = isinstance(images, str | Path) and os.path.isdir(images)
    return _is_picture(images) and not folder


def _is_picture(thing: object) -> bool:
    """Files count by what they can do, as they are of many kinds; going through one gives lines."""
    known = str | Path | ENCODED | Image.Image | np.ndarray
    return isinstance(thing, known) or hasattr(thing, "read")


def _unfolded(images: Iterable[Picture]) -> Iterator[Picture]:
    for one in images:
        if isinstance(one, str | Path) and os.path.isdir(one):
            yield from find_pictures(one)
        else:
            yield one


def view_batches(
    pictures: Iterable[Picture], size: int, batch_size: int, device: torch.device
) -> Iterator[torch.Tensor]:
    """[B, 3, size, size] on a device of `batch_size` pictures and a rest; threads decode one batch
    ahead.

    Raises:
        ConfigError: no picture, or one that cannot be used; it is named.
    """
    refuse_wrong(batch_size=batch_size)

    alone = isinstance(pictures, list) and len(pictures) == 1

    def view(numbered: tuple[int, Picture]) -> torch.Tensor:
        try:
            return carried(open_picture(numbered[1], numbered[0]), size, device)
        except ConfigError as error:
            raise ConfigError(f"{error}{'' if alone else SKIPPING}") from None

    views = ahead(view, enumerate(pictures), batch_size)
    count = 0
    while batch := list(islice(views, batch_size)):
        count += len(batch)
        yield brought(batch, size, device)
    if not count:
        raise ConfigError("no picture given")


def ahead(
    work: Callable[[Thing], Made], things: Iterable[Thing], depth: int, threads: int = THREADS
) -> Iterator[Made]:
    """`work` of each thing, in order, by threads that are at most `depth` things ahead."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Made]] = deque()
    try:
        for thing in things:
            waiting.append(pool.submit(work, thing))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def open_picture(picture: Picture, number: int | None = None) -> Image.Image:
    """Any picture as RGB, alike whether it comes as a file, as bytes or decoded.

    Args:
        picture: to open.
        number: its place among those given, for the message about one without a name.

    Raises:
        ConfigError: it cannot be used; one line with its name.
    """
    named = isinstance(picture, str | Path)
    place = "" if named or number is None else f"images[{number}], "
    name = printable(picture) if named else f"{place}a {type(picture).__name__}"
    try:
        if isinstance(picture, np.ndarray):
            return to_rgb(_from_array(picture))
        if isinstance(picture, Image.Image):
            if picture.mode == "F":
                raise BadSample("mode F, whose pixels are fractions: convert it to RGB")
            refuse_size(picture.size, MAX_PIXELS)
            with LOADING:
                picture.load()
            return to_rgb(picture)
        return decode_image(_content(picture), MAX_PIXELS)
    except BadSample as bad:
        known = " (JPEG, PNG and WebP are read)" if bad.reason == "wrong_format" else ""
        raise ConfigError(f"{name}: not a usable picture: {bad.reason}{known}") from None
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - Pillow refuses arrays and torn files in many ways
        problem = printable(" ".join(str(error).split()))
        reason = getattr(error, "strerror", None) or f"not a usable picture: {problem}"
        raise ConfigError(f"{name}: {reason}") from None


def _content(picture: str | Path | ENCODED | BinaryIO) -> bytes:
    """An encoded picture.

    Raises:
        BadSample: nothing that may hold one.
    """
    if isinstance(picture, str | Path):
        if is_pipe(picture):
            raise BadSample("not a file")
        return Path(picture).read_bytes()
    if isinstance(picture, ENCODED):
        return bytes(picture)
    content = picture.read() if hasattr(picture, "read") else None
    if isinstance(content, str):
        raise BadSample("a file opened as text: open it with 'rb'")
    if not isinstance(content, bytes):
        allowed = "a file or its name, encoded bytes, a Pillow picture, or uint8 [H, W, 3] of NumPy"
        raise BadSample(f"must be {allowed}")
    return content


def _from_array(array: np.ndarray) -> Image.Image:
    """An array as a picture.

    Raises:
        BadSample: of another kind, or of no size that files may have.
    """
    # Without the order of bytes.
    kind, colours = array.dtype.str[1:], array.shape[2:]
    if array.ndim < 2 or colours not in COLOURS.get(kind, ()):
        allowed = "must be uint8 [H, W, 3] or [H, W], or with transparency [H, W, 4] or [H, W, 2]"
        raise BadSample(f"{array.dtype} {list(array.shape)}: {allowed}")
    refuse_size((array.shape[1], array.shape[0]), MAX_PIXELS)
    return Image.fromarray(array)
