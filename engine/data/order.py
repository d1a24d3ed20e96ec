"""Which sample a slot holds: arithmetic, not state.

Slots run over epochs: slot n is position n % N of epoch n // N. Each epoch permutes the shards
and mixes the samples of every window of shards, so reading stays local on slow disks.
"""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from engine.data.counter import Bijection, key_of, permuted


class Order:
    """The order of samples for a seed.

    Args:
        lengths: samples of each shard.
        seed: of the shuffle.
        window: shards mixed with each other.
    """

    def __init__(self, lengths: Sequence[int], seed: int, window: int) -> None:
        self._lengths = list(lengths)
        self._starts = [0, *accumulate(self._lengths)]
        self._seed, self._window = seed, max(1, window)
        self._epoch = -1

    def __len__(self) -> int:
        return self._starts[-1]

    def of_slot(self, slot: int) -> int:
        """The sample's number in the source."""
        return self.sample(slot // len(self), slot % len(self))

    def sample(self, epoch: int, position: int) -> int:
        """The sample at a position of an epoch."""
        if epoch != self._epoch:
            self._lay_out(epoch)
        window = bisect_right(self._window_starts, position) - 1
        inside = self._mixers[window][position - self._window_starts[window]]
        ends = self._ends[window]
        shard = bisect_right(ends, inside)
        before = ends[shard - 1] if shard else 0
        return self._starts[self._shards[window][shard]] + inside - before

    def _lay_out(self, epoch: int) -> None:
        """The windows of an epoch; a few numbers a shard, nothing a sample."""
        order = permuted(len(self._lengths), key_of(self._seed, epoch)).tolist()
        cuts = range(0, len(order), self._window)
        self._shards = [order[cut : cut + self._window] for cut in cuts]
        self._ends = [list(accumulate(self._lengths[n] for n in one)) for one in self._shards]
        sizes = [ends[-1] for ends in self._ends]
        self._window_starts = [0, *accumulate(sizes)][:-1]
        keys = [key_of(self._seed, epoch, number) for number in range(len(sizes))]
        self._mixers = [Bijection(size, key) for size, key in zip(sizes, keys, strict=True)]
        self._epoch = epoch
