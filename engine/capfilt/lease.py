"""Leases on shards: files in a shared folder that their holders touch as long as they live.

No clock is compared with another machine's: a lease is dead when its holder ran on this machine
and is gone, or when it was not touched for so long by this process's own watch. It is taken over by
creating the next generation, which only one process can; whoever then finds its own file deleted
knows that it has lost the shard.
"""

import contextlib
import json
import os
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType

import psutil

BEATS = 5


class LeaseLostError(Exception):
    """Another process has taken the shard over: leave it."""


class Lease:
    """The right to make a shard; a context that gives it back.

    Args:
        path: of the file.
        handle: open descriptor of it.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self._lock = threading.Lock()
        self._open = True

    @property
    def lost(self) -> bool:
        """Whether another process took it over."""
        with self._lock:
            try:
                return not self._open or os.fstat(self._handle).st_nlink == 0
            except OSError:
                # What network filesystems say of a file that another machine deleted.
                return True

    @property
    def given_back(self) -> bool:
        """Whether its context has ended."""
        return not self._open

    def touch(self) -> None:
        """Show life."""
        with self._lock, contextlib.suppress(OSError):
            if self._open:
                os.utime(self._handle)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            # A file of that name may be another's by now.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(self._handle), os.stat(self.path)):
                    os.unlink(self.path)
            os.close(self._handle)
            self._open = False


class Leases:
    """All leases of an output folder, and a thread that touches those that this process holds.

    Args:
        folder: where they lie; it exists.
        seconds: without a touch after which a lease is dead.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.seconds = folder, seconds
        self._me = json.dumps(_process()).encode()
        self._seen: dict[str, tuple[tuple[int, int], float]] = {}
        self._held: list[Lease] = []
        self._closed = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._beats.start()

    def close(self) -> None:
        """No more touching."""
        self._closed.set()
        self._beats.join()

    def acquire(self, name: str) -> Lease | None:
        """The lease on a shard, or None while another process holds it.

        Whoever gets it must still look whether the shard has been made meanwhile.
        """
        found = self._generations(name)
        if found and not self._dead(self._path(name, found[-1])):
            return None
        generation = found[-1] + 1 if found else 0
        path = self._path(name, generation)
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        except FileExistsError:
            return None
        lease = Lease(path, handle)
        try:
            os.write(handle, self._me)
        except OSError:
            lease.__exit__(None, None, None)
            raise
        if self._generations(name)[-1:] != [generation]:
            # Looked at the folder before a whole chain of others came and went.
            lease.__exit__(None, None, None)
            return None
        for older in found:
            self._path(name, older).unlink(missing_ok=True)
        self._held = [*(one for one in self._held if not one.given_back), lease]
        return lease

    def _path(self, name: str, generation: int) -> Path:
        return self.folder / f"{name}@{generation}"

    def _generations(self, name: str) -> list[int]:
        numbers = (entry.rpartition("@") for entry in os.listdir(self.folder))
        return sorted(int(n) for shard, _, n in numbers if shard == name and n.isdecimal())

    def _dead(self, path: Path) -> bool:
        try:
            status, content = path.stat(), path.read_bytes()
        except OSError:
            # Given back this very moment; the next look will tell.
            return False
        if content == self._me or _gone(content):
            return True
        signature, now = (status.st_ino, status.st_mtime_ns), time.monotonic()
        before = self._seen.get(path.name)
        if before is None or before[0] != signature:
            self._seen[path.name] = (signature, now)
            return False
        return now - before[1] > self.seconds

    def _beat(self) -> None:
        while not self._closed.wait(self.seconds / BEATS):
            for lease in self._held:
                lease.touch()


def _process() -> dict[str, str | int | float]:
    """Who this process is, so that others on its machine can tell whether it is still there."""
    return {
        "machine": _machine(),
        "pid": os.getpid(),
        "since_boot": _since_boot(psutil.Process()),
        "token": uuid.uuid4().hex,
    }


def _since_boot(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: each of the two times jumps where the
    machine's clock is set."""
    return process.create_time() - psutil.boot_time()


def _machine() -> str:
    """Equal where process numbers mean the same: one boot, one namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        # Nobody's: such leases only end by not being touched.
        return uuid.uuid4().hex


MACHINE = _machine()


def _gone(content: bytes) -> bool:
    """Whether a lease's process ran on this machine and is no more."""
    try:
        holder = json.loads(content)
        if holder["machine"] != MACHINE:
            return False
        process = psutil.Process(holder["pid"])
        same = abs(_since_boot(process) - holder["since_boot"]) < 1.0
        return not same or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except (ValueError, KeyError, TypeError, psutil.Error):
        # Not written yet, or by a process that died before it was.
        return False
