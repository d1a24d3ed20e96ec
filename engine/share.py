"""Work that the processes of a command share out; what comes of it is the same for any number."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from engine.config import ConfigError
from engine.runtime import Runtime

ALONE = Runtime(0, 1, torch.device("cpu"))

Thing = TypeVar("Thing")


class OthersError(ConfigError):
    """What another process has said is wrong: all of them know it."""


@dataclass(frozen=True)
class Share:
    """This process's share of work that comes in numbered items.

    Parts of consecutive items are dealt to the processes in turn. Where they are cut does not
    depend on how many processes there are, and so neither does what is computed together.

    Args:
        here: where this process stands; alone by default.
    """

    here: Runtime = ALONE

    def parts(self, count: int, size: int) -> Iterator[range]:
        """Every world_size-th part of `size` of `count` items, from this process's on."""
        step = self.here.world_size * size
        for start in range(self.here.rank * size, count, step):
            yield range(start, min(start + size, count))

    def meet(self, thing: Thing) -> list[Thing]:
        """What every process holds, in rank order, on every process. Collective.

        Raises:
            OthersError: another process has failed and brings nothing.
        """
        met = self.here.gather((None, thing))
        for problem, _ in met:
            if problem is not None:
                raise OthersError(problem)
        return [other for _, other in met]

    def gathered(self, mine: Mapping[int, Thing]) -> dict[int, Thing]:
        """Numbered things of all processes in the order of their numbers. Collective.

        Raises:
            OthersError: another process has failed.
        """
        every = {number: thing for part in self.meet(mine) for number, thing in part.items()}
        return {number: every[number] for number in sorted(every)}

    @contextmanager
    def one_fate(self) -> Iterator[None]:
        """Where one process meets a `ConfigError` all end with it. Collective at its end.

        Inside, processes wait for each other by `meet` alone: whoever fails comes to the next
        meeting with the problem instead.

        Raises:
            ConfigError: this process's, or `OthersError`.
        """
        try:
            yield
            self.meet(None)
        except OthersError:
            raise
        except ConfigError as error:
            self.here.gather((str(error), None))
            raise
