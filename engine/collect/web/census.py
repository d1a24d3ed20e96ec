"""The first pass over the lists, in memory that does not grow with them: rows and caption counts.

Captions are counted by hash in a count-min sketch (Cormode and Muthukrishnan 2005): a count is
never too small, and too large by more than 3e-7 times the rows for one caption in fifty.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import xxhash

from engine.collect.web.lists import Lists, pieces

WIDTH, DEPTH = 1 << 23, 4
ROWS = 8192


class CaptionCounts:
    """How often each caption stands in the lists; 128 MiB."""

    def __init__(self) -> None:
        self._counts = np.zeros((DEPTH, WIDTH), np.uint32)

    def add(self, captions: Iterable[str]) -> None:
        """Count some more."""
        hashes = [_hash(caption) for caption in captions]
        for depth in range(DEPTH):
            cells = np.array([_cell(value, depth) for value in hashes], np.int64)
            np.add.at(self._counts[depth], cells, 1)

    def __getitem__(self, caption: str) -> int:
        value = _hash(caption)
        return min(int(self._counts[depth, _cell(value, depth)]) for depth in range(DEPTH))


@dataclass(frozen=True)
class Census:
    """What the first pass found.

    Attributes:
        rows: in all lists.
        fingerprint: of their bytes.
        counts: of captions; None where nobody asks.
    """

    rows: int
    fingerprint: str
    counts: CaptionCounts | None


def take_census(lists: Lists, count_captions: bool, tick: Callable[[int], None]) -> Census:
    """Read all lists once.

    Args:
        lists: to read.
        count_captions: whether to count them.
        tick: told of each further number of rows.

    Raises:
        ConfigError: a list that is not readable.
    """
    counts = CaptionCounts() if count_captions else None
    rows = 0
    for piece in pieces(lists.rows(), ROWS):
        rows += len(piece)
        if counts is not None:
            counts.add(row.caption for row in piece if row.caption is not None)
        tick(len(piece))
    return Census(rows, lists.fingerprint(), counts)


def spelling(caption: str) -> str:
    """One for captions that differ in case and spaces only."""
    return " ".join(caption.lower().split())


def _hash(caption: str) -> int:
    return xxhash.xxh3_128_intdigest(spelling(caption).encode())


def _cell(value: int, depth: int) -> int:
    """Two halves of a hash make as many as are wanted (Kirsch and Mitzenmacher 2006)."""
    return ((value & 0xFFFFFFFFFFFFFFFF) + depth * (value >> 64 | 1)) % WIDTH
