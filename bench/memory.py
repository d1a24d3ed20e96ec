"""Memory that work takes, as the kernel counts it, and what the C library does when it is freed."""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path

# What glibc's thresholds for mapping blocks apart and for giving freed memory back grow to by
# themselves once large blocks are freed (mallopt(3)).
TRIM_THRESHOLD, MMAP_THRESHOLD = (-1, 64 << 20), (-3, 32 << 20)


def give_back_memory() -> None:
    """Undo `engine.runtime.keep_memory`: freed memory is given back, as in any other program."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(*MMAP_THRESHOLD)
        libc.mallopt(*TRIM_THRESHOLD)
        libc.malloc_trim(0)


def status(name: str) -> int:
    """A line of this process' status in bytes: `VmRSS` now, `VmHWM` at its most."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"the kernel does not say {name}")
    return int(found[1]) * 1024


def peak(work: Callable[[], object]) -> int:
    """Bytes by which the memory of a process grows at most, in a copy of this one.

    Raises:
        ChildProcessError: the copy did not come to its end.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            # The most starts anew: what forking itself lets go of would hide as much growth.
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
            before = status("VmHWM")
            work()
            os.write(writing, str(status("VmHWM") - before).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        text = said.read()
    os.waitpid(child, 0)
    if not text:
        raise ChildProcessError("the work whose memory is measured did not end")
    return int(text)
