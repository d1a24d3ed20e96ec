"""Memory that work takes, as the kernel counts it."""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path


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
            # What this process keeps of freed memory would be taken first, and be no growth.
            libc = ctypes.CDLL(None)
            if hasattr(libc, "malloc_trim"):
                libc.malloc_trim(0)
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
