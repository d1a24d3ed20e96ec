"""Pictures that wait for a slot, and their captions until their group is whole."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

# Number of a group, and of the picture in it.
Name = tuple[int, int]


@dataclass(frozen=True)
class Encoded:
    """Pictures that wait for their captions.

    Attributes:
        states: [B, P, vision width].
        prompt_ids: [B, L], [DEC] first, no [SEP]; L is the same for all pictures of a run.
        uniforms: [B, samples, max_length] float64 in [0, 1), at most 1 - 2**-32, to draw by; None
            for a search.
    """

    states: torch.Tensor
    prompt_ids: torch.Tensor
    uniforms: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def part(self, first: int, last: int) -> "Encoded":
        """Pictures from `first` to before `last`."""
        numbers = None if self.uniforms is None else self.uniforms[first:last]
        return Encoded(self.states[first:last], self.prompt_ids[first:last], numbers)


def joined(parts: list[Encoded]) -> Encoded:
    """Several groups as one."""
    if len(parts) == 1:
        return parts[0]
    numbers = [part.uniforms for part in parts if part.uniforms is not None]
    return Encoded(
        torch.cat([part.states for part in parts]),
        torch.cat([part.prompt_ids for part in parts]),
        torch.cat(numbers) if numbers else None,
    )


class Line:
    """Pictures in the order in which they come, and groups whose captions are not all there yet.

    Args:
        groups: of encoded pictures.

    Attributes:
        over: whether the last picture was taken, as far as has been looked.
    """

    def __init__(self, groups: Iterable[Encoded]) -> None:
        self._coming, self.over = iter(groups), False
        self._rest: Encoded | None = None
        self._open: deque[list[torch.Tensor | None]] = deque()
        self._came = self._gone = 0

    def first(self) -> Encoded | None:
        """The first group, which is not taken by it; None where there is none."""
        self._look()
        return self._rest

    def _look(self) -> None:
        """Ask for the next group."""
        self._rest = next(self._coming, None)
        self.over = self._rest is None
        if self._rest is not None:
            self._open.append([None] * len(self._rest))
            self._came += 1

    def take(self, count: int) -> tuple[list[Name], Encoded] | None:
        """The next pictures: `count`, fewer only when no more come, None when none do."""
        names: list[Name] = []
        parts: list[Encoded] = []
        while len(names) < count and not self.over:
            if not self._rest:
                self._look()
                continue
            first = len(self._open[-1]) - len(self._rest)
            taken = min(count - len(names), len(self._rest))
            names += [(self._came - 1, first + number) for number in range(taken)]
            parts.append(self._rest.part(0, taken))
            self._rest = self._rest.part(taken, len(self._rest))
        return (names, joined(parts)) if names else None

    def put(self, name: Name, rows: torch.Tensor) -> None:
        """Captions of a picture."""
        group, number = name
        self._open[group - self._gone][number] = rows

    def whole(self) -> Iterator[torch.Tensor]:
        """Groups that wait for nothing any more, in order."""
        while self._open and all(rows is not None for rows in self._open[0]):
            self._gone += 1
            yield torch.stack(self._open.popleft())
