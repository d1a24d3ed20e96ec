"""Which slots a rank's micro-batches hold, for any number of ranks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from engine.config import ConfigError, RunConfig


@dataclass(frozen=True)
class MicroBatches:
    """Slots of a rank's micro-batches: of step s and accumulation a, in that order.

    Rank r takes slots s * global + (a * ranks + r) * micro + [0, micro), so that features gathered
    as [a, r, micro] are in slot order whatever the number of ranks.
    """

    global_batch: int
    micro_batch: int
    rank: int
    ranks: int
    start_step: int
    stop_step: int

    @property
    def accumulation(self) -> int:
        """Micro-batches of a rank in a step."""
        return self.global_batch // (self.micro_batch * self.ranks)

    def __len__(self) -> int:
        return max(0, self.stop_step - self.start_step) * self.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.stop_step):
            for part in range(self.accumulation):
                first = step * self.global_batch
                first += (part * self.ranks + self.rank) * self.micro_batch
                yield list(range(first, first + self.micro_batch))


def micro_batch_size(config: RunConfig, ranks: int) -> int:
    """Pairs a rank takes in one forward pass.

    Raises:
        ConfigError: the global batch does not divide, or a negative group would be split.
    """
    train = config.train
    micro = train.micro_batch_size or train.global_batch_size // ranks
    if not micro or train.global_batch_size % (micro * ranks):
        raise ConfigError(
            f"train.global_batch_size {train.global_batch_size} is not a multiple of {ranks} ranks "
            f"x micro-batch {micro}: change one of them"
        )
    if micro % train.group_size:
        fits = math.gcd(micro, train.group_size)
        smaller = f" ({fits} fits)" if fits > 1 else ""
        raise ConfigError(
            f"a rank's micro-batch of {micro} pairs would split negative groups of "
            f"{train.group_size}: use fewer ranks, a larger micro-batch or a smaller "
            f"train.negative_group_size{smaller}"
        )
    return micro
