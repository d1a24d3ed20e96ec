"""Numbers between host and device without either waiting for the other."""

from collections.abc import Callable

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
    here.copy_(tensor, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()

    def values() -> list:
        copied.synchronize()
        return here.tolist()

    return values
