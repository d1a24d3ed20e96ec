"""Names of pairs, each of which stands for one pair alone."""

import numpy as np
import xxhash

from engine.data.source import RawSample

ROWS = 8192


class Repeats:
    """Whether a name was met before; 8 bytes each."""

    def __init__(self) -> None:
        self._old: list[np.ndarray] = []
        self._new: set[int] = set()

    def meets(self, name: str) -> bool:
        """Whether a name is met again; it is met from now on."""
        value = hash_of(name)
        if value in self._new or any(_holds(part, value) for part in self._old):
            return True
        self._new.add(value)
        if len(self._new) >= ROWS:
            self._seal()
        return False

    def _seal(self) -> None:
        """Sorted runs, each at least twice as long as the next: few of them to search."""
        run = np.fromiter(self._new, np.uint64, len(self._new))
        self._new = set()
        while self._old and len(self._old[-1]) <= 2 * len(run):
            run = np.concatenate([self._old.pop(), run])
        run.sort()
        self._old.append(run)


class PairNames:
    """A uid for each pair: the one that it has, or, where an earlier pair has that, with the next
    free number behind.

    A name depends on the pairs before it alone, so that a list that is added to keeps its names.
    """

    def __init__(self) -> None:
        self._repeats = Repeats()
        # By hash of a uid: the number that may be free. Of those that repeat alone.
        self._next: dict[int, int] = {}

    def of(self, raw: RawSample) -> list[str]:
        """Names of a sample's pairs, one a caption: several are numbered in any case."""
        if len(raw.captions) == 1:
            return [self._free(raw.uid, raw.uid)]
        return [self._free(f"{raw.uid}#{place}", raw.uid) for place in range(len(raw.captions))]

    def _free(self, name: str, uid: str) -> str:
        while self._repeats.meets(name):
            number = self._next.get(hash_of(uid), 1)
            self._next[hash_of(uid)] = number + 1
            name = f"{uid}#{number}"
        return name


def hash_of(name: str) -> int:
    """xxh3 of a name, halves of characters included."""
    return xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass"))


def _holds(run: np.ndarray, value: int) -> bool:
    place = int(np.searchsorted(run, np.uint64(value)))
    return place < len(run) and int(run[place]) == value
