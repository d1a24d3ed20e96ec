"""Sides of a comparison as the programs that people run: each in a process of its own.

What a program sets for itself stays with it that way: our runs on a CPU tell the C library to keep
freed memory, which the original and Hugging Face's generate do not. All processes are alive at
once and one of them works at a time, when it is asked; its own clock says how long it took.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from bench.interleaved import Side, timed

# A fresh interpreter: one that is forked would have this one's memory and threads.
FRESH = multiprocessing.get_context("spawn")


class ProgramFailed(Exception):
    """A side raised an error, which the message holds whole, or its process is gone."""


@dataclass(frozen=True)
class Program:
    """What is run by those who run one side, or the same in several precisions.

    Attributes:
        name: of it.
        make: gives its sides by name; a function of a module, which its own process calls.
        given: arguments of `make`.
    """

    name: str
    make: Callable[..., Mapping[str, Side]]
    given: tuple[object, ...] = ()

    def sides(self) -> Mapping[str, Side]:
        """Its sides in this process."""
        return self.make(*self.given)


@dataclass(frozen=True)
class Remote:
    """A side of a program in another process."""

    program: "_Process"
    name: str

    def __call__(self) -> object:
        """One unit of work, and what it gave; a tensor comes as a list."""
        return self.program.ask((self.name, None))

    def seconds(self, calls: int) -> float:
        """A reading of that process' clock around so many calls; what they give stays there."""
        return self.program.ask((self.name, calls))


@contextlib.contextmanager
def apart(*programs: Program) -> Iterator[dict[str, Remote]]:
    """Sides of all programs by name, each program in a process that ends with the block.

    Raises:
        ProgramFailed: also by every use of a side.
    """
    with contextlib.ExitStack() as stack:
        # All are told before the first is waited for: they may get ready at the same time.
        started = [stack.enter_context(_Process(program)) for program in programs]
        yield {name: Remote(one, name) for one in started for name in one.answer()}


class _Process:
    """A program's process as its parent sees it."""

    def __init__(self, program: Program) -> None:
        self.name = program.name
        self.channel, theirs = FRESH.Pipe()
        self.process = FRESH.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        # The process alone holds its end now: if it dies, reading here ends.
        theirs.close()
        self._send(program)

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *_: object) -> None:
        # It has nothing to save, and may be in the midst of work.
        self.process.kill()
        self.process.join()
        self.channel.close()

    def ask(self, question: tuple[str, int | None]) -> Any:
        """Send a question and wait for its answer."""
        self._send(question)
        return self.answer()

    def answer(self) -> Any:
        """What it says next."""
        try:
            error, found = self.channel.recv()
        except (EOFError, OSError):
            self._is_gone()
        if error:
            raise ProgramFailed(f"{self.name}, in its own process:\n{error}")
        return found

    def _send(self, message: object) -> None:
        try:
            self.channel.send(message)
        except OSError:
            self._is_gone()

    def _is_gone(self) -> None:
        self.process.join()
        code = self.process.exitcode
        how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
        memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        raise ProgramFailed(f"the process of {self.name} has ended ({how}{memory})") from None


def _serve(channel: Connection) -> None:
    """Make the sides of the program that is sent, then answer until the parent ends this."""
    # Ctrl-C reaches all processes of a terminal; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        # Only this imports what the program needs.
        sides = channel.recv().sides()
        channel.send(("", list(sides)))
        while True:
            name, calls = channel.recv()
            found = sides[name]() if calls is None else timed(sides[name])(calls)
            # Not the tensor itself: it would be shared, by a thread that waits here.
            channel.send(("", found.tolist() if hasattr(found, "tolist") else found))
    except EOFError:
        pass
    except Exception:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        channel.send((traceback.format_exc(), None))


def _end_with_the_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
