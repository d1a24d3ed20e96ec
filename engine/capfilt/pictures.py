"""A shard's pictures, decoded by threads, in batches that depend on the shard alone."""

from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, TypeVar

import torch

from engine.data.images import BadSample
from engine.data.shards import UNREADABLE, Shards
from engine.data.tar_members import RefusedError
from engine.data.whole_views import carried, picture_for, whole_views
from kernels.transfer import beside

AHEAD = 2
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Picture:
    """A sample that can be used.

    Attributes:
        key: of the sample.
        uid: of the sample.
        captions: as stored; may hold what is not text.
        synthetic: which of them an earlier captioner wrote; see `RawSample`.
        carried: by size S, see `carried`.
    """

    key: str
    uid: str
    captions: list[Any]
    synthetic: tuple[bool, ...]
    carried: dict[int, torch.Tensor]


@dataclass(frozen=True)
class Bad:
    """A sample that cannot be used, and why."""

    key: str
    uid: str
    reason: str


def batches(
    shards: Shards,
    batch_size: int,
    sizes: set[int],
    device: torch.device,
    *,
    workers: int,
    max_pixels: int,
) -> Generator[tuple[list[Picture], list[Bad]], None, None]:
    """Every `batch_size` samples of the shard, without those that are bad.

    Args:
        shards: one shard.
        batch_size: samples a batch, bad ones counted.
        sizes: of the views.
        device: that makes them.
        workers: threads.
        max_pixels: larger pictures are bad.

    Raises:
        ShardError: the file cannot be read.
    """
    pool = ThreadPoolExecutor(workers)
    waiting: deque[list[Future[Picture | Bad]]] = deque()
    starts = iter(range(0, len(shards), batch_size))
    read = partial(_read, shards, sizes=sizes, device=device, max_pixels=max_pixels)
    try:
        while True:
            while len(waiting) < AHEAD and (start := next(starts, None)) is not None:
                numbers = range(start, min(start + batch_size, len(shards)))
                waiting.append([pool.submit(read, n) for n in numbers])
            if not waiting:
                return
            found = [future.result() for future in waiting.popleft()]
            good = [one for one in found if isinstance(one, Picture)]
            yield good, [one for one in found if isinstance(one, Bad)]
    finally:
        pool.shutdown(cancel_futures=True)


def viewed(
    shards: Shards, batch_size: int, sizes: set[int], device: torch.device, **settings: int
) -> Generator[tuple[list[Picture], list[Bad], dict[int, Callable[[], torch.Tensor]]], None, None]:
    """As `batches`, and by size what gives the pictures' views [B, 3, S, S] uint8 on the device,
    which a GPU makes beside its other work."""
    with closing(batches(shards, batch_size, sizes, device, **settings)) as decoded:
        for good, bad in decoded:
            views = {}
            for size in sizes if good else ():
                pixels = [picture.carried[size] for picture in good]
                make = partial(whole_views, pixels, size, device)
                views[size] = beside(make, device)
            yield good, bad, views


def one_ahead(things: Generator[Thing, None, None]) -> Generator[Thing, None, None]:
    """The same things, each made by a thread while the one before it is used."""
    at_work = Lock()

    def following() -> Thing | None:
        with at_work:
            return next(things, None)

    with ThreadPoolExecutor(1) as thread:
        try:
            coming = thread.submit(following)
            while (thing := coming.result()) is not None:
                coming = thread.submit(following)
                yield thing
        finally:
            # A signal while the thread was started leaves one that its pool does not wait for.
            with at_work:
                things.close()


def _read(
    shards: Shards, number: int, *, sizes: set[int], device: torch.device, max_pixels: int
) -> Picture | Bad:
    raw = shards.read(number)
    if raw.problem == UNREADABLE:
        raise RefusedError(f"{shards.paths[0]}: could not be read")
    try:
        if raw.problem:
            raise BadSample(raw.problem)
        picture = picture_for(raw.image, max_pixels, device)
    except BadSample as bad:
        return Bad(raw.key, raw.uid, bad.reason)
    pixels = {size: carried(picture, size, device) for size in sizes}
    return Picture(raw.key, raw.uid, raw.captions, raw.synthetic, pixels)
