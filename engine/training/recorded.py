"""Forward and backward passes recorded once for each of few shapes, and replayed from then on.

A step is thousands of kernels, and to launch one takes a host from 5 to 60 microseconds: at many
batch sizes longer than the GPU needs for it. A CUDA graph launches all of them at once.
"""

from collections.abc import Callable, Hashable, Iterable

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
Outputs = tuple[torch.Tensor, ...]
Passes = Callable[[Tensors], Outputs]


# Shapes that are recorded; a recording of thousands of kernels takes memory on both sides, and
# what comes in ever other shapes seldom comes again.
MOST = 32


class RecordedPasses:
    """Runs passes that give parameters gradients.

    The first of all runs as it is, so that whatever is loaded or chosen once is; then each of the
    first shapes is recorded. On a CPU nothing is recorded.

    Args:
        parameters: that get gradients; they are handed tensors that stay in their places.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._gradients: list[torch.Tensor] = []
        self._places: dict[Hashable, torch.Tensor] = {}
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Outputs]] = {}
        self._is_warm = False
        self._on_gpu = self._parameters[0].is_cuda
        if self._on_gpu:
            self._pool, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def run(self, shape: Hashable, tensors: Tensors, passes: Passes, *, first: bool) -> Outputs:
        """What `passes` returns for copies of tensors in their places on the parameters' device.

        Args:
            shape: equal for calls whose passes do the same to tensors of the same sizes.
            tensors: arguments, on any device.
            passes: called where nothing is recorded of this shape yet. It must not wait for the
                device, and all that it reads beside its arguments must stay in its place.
            first: of a step: its gradients are not added to those before.

        Returns:
            Tensors that the next call overwrites.
        """
        placed = {name: self._placed(name, tensor) for name, tensor in tensors.items()}
        found = self._run((shape, first), lambda: self._collected(passes, placed, first))
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            # A tensor of its own: of what DeepSpeed reduces it moves the data to its buffers, where
            # no recording writes.
            parameter.grad = gradient.detach()
        return found

    def _run(self, shape: tuple[Hashable, bool], work: Callable[[], Outputs]) -> Outputs:
        if not self._on_gpu:
            return work()
        if not self._is_warm:
            self._is_warm = True
            return self._aside(work)
        if shape not in self._graphs and len(self._graphs) >= MOST:
            return self._aside(work)
        if shape not in self._graphs:
            self._record(shape, work)
        graph, outputs = self._graphs[shape]
        graph.replay()
        return outputs

    def _collected(self, passes: Passes, placed: Tensors, first: bool) -> Outputs:
        """Run, and put all gradients in their places at once instead of one by one."""
        self._take()
        found = passes(placed)
        made = self._take()
        if not self._gradients:
            # Their places are where they were made, and nothing is copied.
            pairs = zip(self._parameters, made, strict=True)
            self._gradients = [torch.zeros_like(p) if own is None else own for p, own in pairs]
            return found
        pairs = list(zip(self._gradients, made, strict=True))
        reached = [(place, own) for place, own in pairs if own is not None]
        change = torch._foreach_copy_ if first else torch._foreach_add_
        change(*(list(side) for side in zip(*reached, strict=True)))
        if first and len(reached) < len(pairs):
            torch._foreach_zero_([place for place, own in pairs if own is None])
        return found

    def _take(self) -> list[torch.Tensor | None]:
        """Gradients of the parameters, which have none from then on."""
        made = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        return made

    def _placed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """A copy in the place of all tensors of this name and size."""
        where = (name, tensor.shape, tensor.dtype)
        if where not in self._places:
            self._places[where] = torch.empty_like(tensor, device=self._parameters[0].device)
        return self._places[where].copy_(tensor, non_blocking=True)

    def _aside(self, work: Callable[[], Outputs]) -> Outputs:
        """On the recordings' stream, which gradients are made on from the beginning."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            found = work()
        current.wait_stream(self._stream)
        return found

    def _record(self, shape: tuple[Hashable, bool], work: Callable[[], Outputs]) -> None:
        graph = torch.cuda.CUDAGraph()
        if not self._graphs:
            if shape[1]:
                # Nothing is recorded yet that knows their places: this one makes new ones.
                self._gradients = []
                self._take()
            # What ran as it is leaves room that recordings cannot use; they share one.
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

        def recorded() -> Outputs:
            # Libraries may load kernels for a shape meanwhile, and loaders pin memory.
            graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")
            try:
                return work()
            finally:
                graph.capture_end()

        self._graphs[shape] = (graph, self._aside(recorded))
