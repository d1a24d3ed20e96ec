"""Random numbers as a function of counters: no state to save, no worker or rank in them."""

import math
from collections.abc import Sequence

import numpy as np

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(value: int) -> int:
    """splitmix64's finaliser (Steele et al. 2014): a bijection of 64-bit numbers."""
    value &= MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def key_of(*counters: int) -> int:
    """One 64-bit key from several counters, each of which changes it."""
    key = 0
    for counter in counters:
        key = mix(key + GOLDEN + mix(counter + GOLDEN))
    return key


class Draws:
    """A stream of draws that depends on its counters alone."""

    def __init__(self, *counters: int) -> None:
        self._state = key_of(*counters)

    def bits(self) -> int:
        """64 random bits."""
        self._state = (self._state + GOLDEN) & MASK
        return mix(self._state)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """In [low, high)."""
        return low + (high - low) * (self.bits() >> 11) / (1 << 53)

    def below(self, count: int) -> int:
        """An integer in [0, count)."""
        return math.floor(self.uniform() * count)


def first_bits(keys: Sequence[int], count: int) -> np.ndarray:
    """What `Draws` of these keys give first, at once: [keys, count] uint64."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN)
    return _mixed(np.array(keys, dtype=np.uint64)[:, None] + steps)


def permuted(count: int, key: int) -> np.ndarray:
    """A permutation of range(count): the order of hashed numbers. [count] int64."""
    value = np.arange(count, dtype=np.uint64) * np.uint64(GOLDEN)
    with np.errstate(over="ignore"):
        value += np.uint64(mix(key))
    return np.argsort(_mixed(value), kind="stable")


def _mixed(value: np.ndarray) -> np.ndarray:
    """`mix` of many."""
    with np.errstate(over="ignore"):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value ^ (value >> np.uint64(31))


class Bijection:
    """A pseudorandom permutation of range(count) that is computed a number at a time.

    A balanced Feistel network over the next even power of two; numbers that fall outside are
    walked on until they are inside (Black and Rogaway 2002, "Ciphers with arbitrary domains").
    """

    def __init__(self, count: int, key: int) -> None:
        self.count = count
        self._half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
        self._keys = [key_of(key, number) for number in range(4)]

    def __getitem__(self, number: int) -> int:
        mask = (1 << self._half) - 1
        while True:
            left, right = number >> self._half, number & mask
            for key in self._keys:
                left, right = right, left ^ (mix(right + key) & mask)
            number = (left << self._half) | right
            if number < self.count:
                return number
