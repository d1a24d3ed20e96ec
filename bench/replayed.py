"""Work of a GPU recorded once and replayed, so that its host's launches do not count.

Training on a GPU replays its step; work of a few kernels, launched one by one, would be timed as
long as Python takes to launch them.
"""

from collections.abc import Callable

import torch

from bench.interleaved import Side


def replayed(side: Side, note: Callable[[str], None]) -> Side:
    """The side as a CUDA graph, or as it is where it cannot be one, with a note that says why.

    Args:
        side: one unit of work on a GPU, the same at every call.
        note: takes a line that ends in the reason.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        # What is compiled, tuned and looked up once.
        side()
        side()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    reason = _waits(side)
    if reason is None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Libraries may load kernels meanwhile, and autograd has threads of its own.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="relaxed"):
                side()
        except RuntimeError as error:
            reason = str(error)
        else:
            return graph.replay
    note(f"launched by the host: {reason.splitlines()[0]}")
    return side


def _waits(side: Side) -> str | None:
    """Why a side cannot be recorded: it waits for the GPU. None where it does not.

    A recording that fails half-way would leave PyTorch's generators in the middle of it.
    """
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        side()
    except RuntimeError as error:
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return None
