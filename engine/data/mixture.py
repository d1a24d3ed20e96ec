"""Several sets drawn by weight: which set a slot belongs to is arithmetic too.

Slots come in blocks. In a block every set has its share of the places, exactly, at places that
the block's number shuffles; each set runs through its own epochs at its own pace.
"""

from collections.abc import Callable, Sequence

import numpy as np

from engine.config import ConfigError, DataSection
from engine.data.counter import key_of, permuted
from engine.data.open_source import Joined
from engine.data.order import Order
from engine.data.source import Source

BLOCK, MIX = 1024, 4


class MixedOrder:
    """The order of samples of several sets for a seed.

    Args:
        parts: lengths of the shards of each set.
        weights: of each set's draws, above 0.
        seed: of the shuffle.
        window: shards of a set mixed with each other.

    Raises:
        ValueError: a weight that gives a set less than one draw in `BLOCK`.
    """

    def __init__(
        self, parts: Sequence[Sequence[int]], weights: Sequence[float], seed: int, window: int
    ) -> None:
        keys = [key_of(seed, MIX, number) for number in range(len(parts))]
        self._orders = [Order(part, key, window) for part, key in zip(parts, keys, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum([len(order) for order in self._orders])])
        self._shares = apportioned(weights, BLOCK)
        if not self._shares.all():
            number = int(np.argmin(self._shares))
            raise ValueError(f"weight {number} gives less than one draw in {BLOCK}")
        self._seed, self._block = seed, -1

    def __len__(self) -> int:
        return int(self._starts[-1])

    def of_slot(self, slot: int) -> int:
        """The sample's number among those of all sets, one after the other."""
        block, place = divmod(slot, BLOCK)
        if block != self._block:
            self._lay_out(block)
        part = int(self._parts[place])
        drawn = block * int(self._shares[part]) + int(self._ranks[place])
        return int(self._starts[part]) + self._orders[part].of_slot(drawn)

    def _lay_out(self, block: int) -> None:
        """The set of each place of a block, and how many places before it are the same set's."""
        shuffled = permuted(BLOCK, key_of(self._seed, MIX, len(self._orders), block))
        self._parts = np.searchsorted(np.cumsum(self._shares), shuffled, "right")
        self._ranks = np.empty(BLOCK, np.int64)
        for part, share in enumerate(self._shares):
            self._ranks[self._parts == part] = np.arange(share)
        self._block = block


def apportioned(weights: Sequence[float], places: int) -> np.ndarray:
    """Whole numbers in proportion to the weights that add up to `places` (largest remainder)."""
    exact = np.asarray(weights, np.float64) * (places / sum(weights))
    shares = np.floor(exact).astype(np.int64)
    largest = np.argsort(shares - exact, kind="stable")[: places - int(shares.sum())]
    shares[largest] += 1
    return shares


def open_mixture(
    opening: Callable[[str | list[str], str | None], Source], data: DataSection
) -> Source:
    """What `data.train` names; with weights, each of its entries is a part of its own.

    Args:
        opening: opens an entry or several.
        data: of the run.

    Raises:
        ConfigError: what `opening` refuses, or weights that do not fit the entries.
    """
    if data.weights is None:
        return opening(data.train, data.image_root)
    entries = [data.train] if isinstance(data.train, str) else data.train
    if len(entries) != len(data.weights):
        raise ConfigError(
            f"data.weights has {len(data.weights)} numbers for {len(entries)} entries of "
            "data.train: give one for each"
        )
    return Joined([opening(entry, data.image_root) for entry in entries])


def order_of(source: Source, data: DataSection, seed: int) -> Order | MixedOrder:
    """The order that a run goes through what `open_mixture` opened.

    Raises:
        ConfigError: a weight too small to be drawn by.
    """
    if data.weights is None:
        return Order(source.lengths, seed, data.shuffle_window)
    parts = [part.lengths for part in source.parts]
    try:
        return MixedOrder(parts, data.weights, seed, data.shuffle_window)
    except ValueError as error:
        raise ConfigError(f"data.weights: {error}") from None
