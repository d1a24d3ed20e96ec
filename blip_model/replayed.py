"""Functions of tensors that a GPU runs again as it ran them once, without the host's launches.

A token of a caption is some 200 small operations, and launching one takes the host longer than
the GPU needs for it. A CUDA graph launches all of them at once.
"""

from collections.abc import Callable

import torch

Tensors = tuple[torch.Tensor | None, ...]


class Replayed:
    """A function, called on a GPU once as it is, then recorded, and replayed from then on.

    All that the function reads and changes beside its arguments must stay where it is in memory,
    and it must never wait for the device. What it returns is overwritten by the next call. On a
    CPU every call is the function's own, and so it is where a GPU has no memory for a recording,
    which keeps what the function only needs for a while.

    Args:
        function: of tensors of fixed shapes, each of which may be None in all calls.
    """

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self._function, self._graph, self._is_warm = function, None, False
        self._has_room = True

    def __call__(self, *inputs: torch.Tensor | None) -> Tensors:
        device = next(tensor.device for tensor in inputs if tensor is not None)
        if device.type != "cuda" or not self._is_warm:
            self._is_warm = True
            return self._function(*inputs)
        with torch.cuda.device(device):
            return self._replay(inputs)

    def _replay(self, inputs: Tensors) -> Tensors:
        if self._graph is None and self._has_room:
            # Memory that PyTorch keeps serves no recording, but once it is given back.
            self._has_room = self._recorded(inputs) or self._recorded(inputs)
        if not self._has_room:
            return self._function(*inputs)
        for kept, given in zip(self._inputs, inputs, strict=True):
            if given is not None and given is not kept:
                kept.copy_(given)
        self._graph.replay()
        return self._outputs

    def _recorded(self, inputs: Tensors) -> bool:
        """Whether there was room for it."""
        try:
            self._record(inputs)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            self._graph, self._inputs = None, ()
            torch.cuda.empty_cache()
            return False
        return True

    def _record(self, inputs: Tensors) -> None:
        """Nothing is computed meanwhile. Casts that autocast has kept would not outlive it."""
        self._inputs = tuple(None if tensor is None else tensor.clone() for tensor in inputs)
        self._graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        kind, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        stream.wait_stream(torch.cuda.current_stream())
        # Not by `torch.cuda.graph`, which gives all free memory back first, to be asked for again.
        with (
            torch.cuda.stream(stream),
            torch.autocast("cuda", kind, enabled=enabled, cache_enabled=False),
        ):
            # What other threads do, a loader's that pins memory, does not matter.
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._outputs = self._function(*self._inputs)
            finally:
                self._graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
