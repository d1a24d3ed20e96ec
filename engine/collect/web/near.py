"""Which of many pictures looks like this one: a search that does not compare with each of them.

Hashes that differ in at most t bits agree in one of their four parts of 16 bits up to t // 4 bits
(pigeonhole; Norouzi et al. 2012, "Fast search in Hamming space with multi-index hashing"). Those
of an equal part lie together in an order that is made anew when an eighth has been added; what
came after it is compared one by one. 80 bytes a picture.
"""

from itertools import combinations

import numpy as np

from engine.collect.web.look import COLOURS, Look

PARTS, PART_BITS = 4, 16
FIRST = 1024
# Added pictures before the order is made anew, at least.
TAIL = 4096


class NearIndex:
    """Pictures by their looks; each has a number of its owner's.

    Args:
        bits: of the hash that may differ.
        colour: largest difference of a field's red, green or blue.
    """

    def __init__(self, bits: int, colour: int) -> None:
        self.bits, self.colour = bits, colour
        self._hashes = np.zeros(FIRST, np.uint64)
        self._colours = np.zeros((FIRST, COLOURS), np.uint8)
        self._numbers = np.zeros(FIRST, np.int64)
        self._count = self._sorted = 0
        self._orders: list[np.ndarray] = []
        self._starts: list[np.ndarray] = []
        flips = range(bits // PARTS + 1)
        masks = [sum(1 << bit for bit in c) for n in flips for c in combinations(range(16), n)]
        self._masks = np.array(masks, np.int64)

    def __len__(self) -> int:
        return self._count

    def add(self, look: Look, number: int) -> None:
        """One more picture."""
        if self._count == len(self._hashes):
            for name in ("_hashes", "_colours", "_numbers"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        self._hashes[self._count] = look.hash
        self._colours[self._count] = np.frombuffer(look.colours, np.uint8)
        self._numbers[self._count] = number
        self._count += 1
        if self._count - self._sorted > max(TAIL, self._sorted // 8):
            self._sort()

    def find(self, look: Look) -> int | None:
        """The smallest number of a picture that looks like this one."""
        candidates = self._candidates(look.hash)
        apart = np.bitwise_count(self._hashes[candidates] ^ np.uint64(look.hash))
        candidates = candidates[apart <= self.bits]
        wanted = np.frombuffer(look.colours, np.uint8).astype(np.int16)
        apart = np.abs(self._colours[candidates] - wanted).max(1, initial=0)
        found = self._numbers[candidates[apart <= self.colour]]
        return int(found.min()) if len(found) else None

    def _candidates(self, wanted: int) -> np.ndarray:
        """Places of those that may be near, some several times."""
        found = [np.arange(self._sorted, self._count)]
        for part, (order, starts) in enumerate(zip(self._orders, self._starts, strict=True)):
            values = (wanted >> part * PART_BITS & 0xFFFF) ^ self._masks
            for begin, end in zip(starts[values], starts[values + 1], strict=True):
                if begin < end:
                    found.append(order[begin:end])
        return np.concatenate(found)

    def _sort(self) -> None:
        self._sorted, self._orders, self._starts = self._count, [], []
        for part in range(PARTS):
            shift = np.uint64(part * PART_BITS)
            values = (self._hashes[: self._count] >> shift).astype(np.uint16)
            self._orders.append(np.argsort(values, kind="stable").astype(np.uint32))
            counts = np.bincount(values, minlength=1 << PART_BITS)
            self._starts.append(np.concatenate([[0], np.cumsum(counts)]))
