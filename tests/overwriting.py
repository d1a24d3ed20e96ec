"""What a GPU's replays do with tensors, on a CPU: everything lies where it lay the time before."""

from collections.abc import Callable

import torch

Tensors = tuple[torch.Tensor | None, ...]


class Overwriting:
    """As `Replayed`: what a call gives is written over by the next one but the first.

    Args:
        function: of tensors, each of which may be None in all calls.
    """

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self._function, self._calls = function, 0
        self._inputs: Tensors = ()
        self._outputs: Tensors = ()

    def __call__(self, *inputs: torch.Tensor | None) -> Tensors:
        self._calls += 1
        if self._calls == 1:
            return self._function(*inputs)
        if self._calls == 2:
            self._inputs = tuple(None if given is None else given.clone() for given in inputs)
        _write(self._inputs, inputs)
        made = self._function(*self._inputs)
        if self._calls == 2:
            self._outputs = tuple(None if one is None else one.clone() for one in made)
        _write(self._outputs, made)
        return self._outputs


def _write(kept: Tensors, given: Tensors) -> None:
    for place, tensor in zip(kept, given, strict=True):
        assert (place is None) == (tensor is None)
        if place is not None:
            assert place.shape == tensor.shape and place.dtype == tensor.dtype
            place.copy_(tensor)
