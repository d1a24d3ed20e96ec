"""Seeds of what kernels draw by themselves, such as dropout's masks: many from one launch.

They are drawn on the device: the host never waits, and a replayed graph draws anew.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

# Drawn at once: more than a step of all objectives asks for, in kilobytes.
TOGETHER = 256
# Words of a draw: a kernel is compiled anew for a pointer to what does not lie at 16 bytes.
WORDS = 2


class _Seeds:
    """Those of a pass on one device, in the order in which they are asked for.

    Attributes:
        place: of the next one.
    """

    def __init__(self) -> None:
        self.place, self._drawn = 0, []

    def next(self, device: torch.device) -> torch.Tensor:
        if self.place % TOGETHER == 0:
            # Also where they are there and a layer runs again: what else it draws comes after.
            drawn = _draw(TOGETHER, device)
            if self.place == len(self._drawn):
                self._drawn += drawn
        self.place += 1
        return self._drawn[self.place - 1]

    @contextmanager
    def asked_from(self, place: int) -> Iterator[None]:
        """Who asks inside gets those from a place on."""
        before, self.place = self.place, place
        outer = _ASKED.set(self)
        try:
            yield
        finally:
            _ASKED.reset(outer)
            self.place = max(self.place, before)


_ASKED: ContextVar[_Seeds | None] = ContextVar("seeds", default=None)


def new_seed(device: torch.device) -> torch.Tensor:
    """int64 on the device, of which a kernel reads the first; keyed by the device's generator."""
    seeds = _ASKED.get()
    return _draw(1, device)[0] if seeds is None else seeds.next(device)


@contextmanager
def seeds_together() -> Iterator[None]:
    """Seeds of a pass, all of it on one device, are drawn in one launch when the first is."""
    with _Seeds().asked_from(0):
        yield


def with_same_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose calls all get the seeds that one here and now would get; where they are
    drawn one by one, the generator's state is the caller's to repeat."""
    # A program that is compiled draws by PyTorch's own operations.
    seeds = None if torch.compiler.is_compiling() else _ASKED.get()
    if seeds is None:
        return function
    place = seeds.place

    def same(*inputs: Any) -> Any:
        with seeds.asked_from(place):
            return function(*inputs)

    return same


def _draw(count: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    return torch.randint(2**62, (count, WORDS), device=device).unbind()
