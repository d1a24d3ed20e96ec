"""Loader processes: how they begin and end, and what their errors say."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.data.batch import Batch

LEFT = (EOFError, ConnectionError)


def from_worker(error: Exception) -> str:
    """What an error says, without the traceback that a loader process wraps around it."""
    text = str(error).strip()
    if "Original Traceback" not in text:
        return text
    return text.splitlines()[-1].partition(": ")[2]


def start_worker(_: int) -> None:
    """One thread, and the main process decides when a stopped run ends.

    Ctrl-C and the DeepSpeed launcher signal workers too, and a worker that dies takes the run down
    before it has saved. A second signal does end a worker.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))
    # A stop may come while a batch is handed over: nothing is wrong with who is hung up on.
    told = sys.excepthook
    sys.excepthook = lambda kind, *more: None if issubclass(kind, LEFT) else told(kind, *more)


@contextmanager
def ended_with(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Batches of a loader, whose processes end with the context.

    An error keeps the frames that it came through, and with them the batches. Python waits at its
    end for processes that are left, and ours pass over the one signal that it sends them.
    """
    try:
        yield batches
    finally:
        end = getattr(batches, "close", None) or getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()
