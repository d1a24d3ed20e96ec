"""Loader processes: how they begin and end, and what their errors say."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.data.batch import Batch

LEFT, STOPS = (EOFError, ConnectionError), (signal.SIGTERM, signal.SIGINT)


def from_worker(error: Exception) -> str:
    """What an error says, without the traceback that a loader process wraps around it."""
    text = str(error).strip()
    if "Original Traceback" not in text:
        return text
    return text.splitlines()[-1].partition(": ")[2]


def start_worker(_: int) -> None:
    """One thread, and the main process alone decides when a stopped run ends.

    Ctrl-C, a cluster and the DeepSpeed launcher signal workers too, any number of times, and a
    worker that dies takes the run down before it has saved.
    """
    torch.set_num_threads(1)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    main = multiprocessing.parent_process().pid
    threading.Thread(target=_end_for, args=(main,), daemon=True).start()
    # A stop may come while a batch is handed over: nothing is wrong with who is hung up on.
    told = sys.excepthook
    sys.excepthook = lambda kind, *more: None if issubclass(kind, LEFT) else told(kind, *more)


def _end_for(main: int) -> None:
    while signal.sigwaitinfo(STOPS).si_pid != main:
        pass
    os._exit(128 + signal.SIGTERM)


@contextmanager
def ended_with(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Batches of a loader, whose processes end with the context.

    An error keeps the frames that it came through, and with them the batches, and Python waits at
    its end for processes that are left.
    """
    try:
        yield batches
    finally:
        end = getattr(batches, "close", None) or getattr(batches, "_shutdown_workers", None)
        if end is not None:
            end()
