"""Runs a program that signals itself when it comes to a file; a program of its own, see `forked`.

    tests.at_file SIGNAL PLACE COUNT PROGRAM [WORD ...]

Right before the process opens, makes, links or renames, for the COUNT-th time, something whose path
fits PLACE (as `fnmatch` has it; Python's audit events tell), it sends itself the SIGNAL. A signal
that somebody else sends when he sees that file comes late on a machine that is faster than he is.
"""

import importlib
import os
import signal
import sys
from fnmatch import fnmatchcase
from typing import Any


def signal_myself(number: int, place: str, count: int) -> None:
    """Send this process a signal at its `count`-th file operation on such a place from now on."""
    met = 0

    def hook(event: str, words: tuple[Any, ...]) -> None:
        nonlocal met
        if event == "open" or event.startswith("os."):
            paths = [os.fsdecode(word) for word in words if isinstance(word, str | bytes)]
            if any(fnmatchcase(path, place) for path in paths):
                met += 1
                if met == count:
                    os.kill(os.getpid(), number)

    sys.addaudithook(hook)


def main() -> int | None:
    """Run the program's own main."""
    number, place, count, program, *words = sys.argv[1:]
    signal_myself(getattr(signal, number), place, int(count))
    sys.argv = [program.rpartition(".")[2] + ".py", *words]
    return importlib.import_module(program).main()
