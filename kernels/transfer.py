"""Numbers between host and device without either waiting for the other."""

from collections.abc import Callable
from functools import cache

import torch


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device.

    To a GPU from pinned memory, or the host would wait for all that it has been told before.
    """
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def values_later(tensor: torch.Tensor) -> Callable[[], list]:
    """What to ask for a tensor's values; a GPU copies them beside what it is told meanwhile."""
    if not tensor.is_cuda:
        return tensor.tolist
    here = torch.empty_like(tensor, device="cpu", pin_memory=True)
    # A thread begins with the first device as its current one.
    with torch.cuda.device(tensor.device):
        here.copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()

    def values() -> list:
        copied.synchronize()
        return here.tolist()

    return values


def beside(make: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], torch.Tensor]:
    """What gives the current stream a tensor that a GPU makes beside that one's work.

    Args:
        make: gives it, on the device.
        device: with its number, if it is a GPU.
    """
    if device.type != "cuda":
        made = make()
        return lambda: made
    stream = _apart(device)
    with torch.cuda.stream(stream):
        made = make()
        ready = stream.record_event()

    def take() -> torch.Tensor:
        using = torch.cuda.current_stream(device)
        using.wait_event(ready)
        # It was allocated for another stream, which may not have it back before it was used.
        made.record_stream(using)
        return made

    return take


@cache
def _apart(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
