"""A command's main in this process: what it said, how it ended, and what it left on the disk."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import xxhash

from engine import runtime
from launch.cli import run_main


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code.
        out: what it printed.
        err: what it said on stderr.
    """

    code: int
    out: str
    err: str


def call(main: Callable[[], int | None], *words: object) -> Ended:
    """Run an entry point as `python launch/NAME.py WORDS` would, without starting a process."""
    out, err = io.StringIO(), io.StringIO()
    name = f"{main.__module__.rpartition('.')[2]}.py"
    with _untouched(), redirect_stdout(out), redirect_stderr(err):
        sys.argv = [name, *map(str, words)]
        try:
            run_main(main)
        except SystemExit as stopped:
            code = stopped.code
    assert isinstance(code, int)
    return Ended(code, out.getvalue(), err.getvalue())


@contextmanager
def _untouched() -> Iterator[None]:
    """Signals, environment and process group are put back: a command owns its process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    environment, words = dict(os.environ), sys.argv
    try:
        yield
    finally:
        runtime.stop()
        # The thread that listens at the other end goes, and both ends with it.
        writer = signal.set_wakeup_fd(-1)
        if writer != -1:
            os.close(writer)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv = words


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its bytes, every folder with ""."""
    return {
        str(path.relative_to(folder)): xxhash.xxh3_128_hexdigest(path.read_bytes())
        if path.is_file()
        else ""
        for path in sorted(folder.rglob("*"))
    }
