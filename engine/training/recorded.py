"""Forward and backward passes recorded once for each of few shapes, and replayed from then on.

A step is thousands of kernels, and to launch one takes a host from 5 to 60 microseconds: at many
batch sizes longer than the GPU needs for it. A CUDA graph launches all of them at once.
"""

from collections.abc import Callable, Hashable, Iterable

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
Passes = Callable[[Tensors], tuple[torch.Tensor, ...]]


class RecordedPasses:
    """Runs passes that add to the gradients of parameters.

    The first of all runs as it is, so that whatever is loaded or chosen once is; then each shape is
    recorded. On a CPU nothing is recorded.

    Args:
        parameters: that get gradients; they are handed tensors that stay in their places.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._gradients: list[torch.Tensor] = []
        self._places: dict[Hashable, torch.Tensor] = {}
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, tuple[torch.Tensor, ...]]] = {}
        self._is_warm = False
        self._on_gpu = self._parameters[0].is_cuda
        if self._on_gpu:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def begin(self) -> None:
        """A step: gradients are zero, and what the last one left in their place is let go."""
        if not self._gradients:
            self._gradients = [torch.zeros_like(p) for p in self._parameters]
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        torch._foreach_zero_(self._gradients)

    def run(self, shape: Hashable, tensors: Tensors, passes: Passes) -> tuple[torch.Tensor, ...]:
        """What `passes` returns for copies of tensors in their places on the parameters' device.

        Args:
            shape: equal for calls whose passes do the same to tensors of the same sizes.
            tensors: arguments, on any device.
            passes: called where nothing is recorded of this shape yet. It must not wait for the
                device, and all that it reads beside its arguments must stay in its place.

        Returns:
            Tensors that the next call overwrites.
        """
        placed = {name: self._placed(name, tensor) for name, tensor in tensors.items()}
        if not self._on_gpu:
            return passes(placed)
        if not self._is_warm:
            # On the recording's stream: gradients are added up on the one that they were first on.
            self._is_warm = True
            return self._aside(lambda: passes(placed))
        if shape not in self._graphs:
            self._record(shape, lambda: passes(placed))
        graph, outputs = self._graphs[shape]
        graph.replay()
        return outputs

    def _placed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in the place of all tensors of this name and size."""
        where = (name, tensor.shape, tensor.dtype)
        if where not in self._places:
            self._places[where] = torch.empty_like(tensor, device=self._parameters[0].device)
        return self._places[where].copy_(tensor, non_blocking=True)

    def _aside(self, work: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = work()
        current.wait_stream(self._stream)
        return found

    def _record(self, shape: Hashable, work: Callable[[], tuple[torch.Tensor, ...]]) -> None:
        graph = torch.cuda.CUDAGraph()
        if not self._graphs:
            # What ran as it is leaves room that recordings cannot use; they share one.
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

        def recorded() -> tuple[torch.Tensor, ...]:
            # Libraries may load kernels for a shape meanwhile, and loaders pin memory.
            graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")
            try:
                return work()
            finally:
                graph.capture_end()

        self._graphs[shape] = (graph, self._aside(recorded))
