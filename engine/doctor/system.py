"""What the system gives: processor, memory, limits, shared memory, disk. No library is needed."""

import fcntl
import os
import platform
import re
import resource
import shutil
import time
from pathlib import Path
from typing import Any

from engine.machine import (
    CGROUP,
    PROC,
    core_share,
    cores,
    cpu_flags,
    memory_limit,
    multiplies_bf16,
    processor,
    read,
)

# Bytes that are written and read to measure a disk; never more than a part of what is free.
WRITTEN, PART_OF_FREE = 64 << 20, 10
BLOCK = 1 << 20


def processor_facts(proc: Path = PROC, cgroup: Path = CGROUP) -> dict[str, Any]:
    """The processor and how much of it there is for a process."""
    return {
        "name": processor(proc),
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "core_share": core_share(cgroup, proc),
        "instructions": cpu_flags(proc),
        "bf16": multiplies_bf16(proc),
        "threads_set": os.environ.get("OMP_NUM_THREADS"),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }


def memory_facts(proc: Path = PROC, cgroup: Path = CGROUP) -> dict[str, Any]:
    """Memory in GiB, and what a container may take of it."""
    stated = dict(re.findall(r"^(\w+):\s+(\d+) kB$", read(proc / "meminfo"), re.MULTILINE))

    def gib(name: str) -> float | None:
        return round(int(stated[name]) / 2**20, 2) if name in stated else None

    limit = memory_limit(cgroup, proc)
    total, free = gib("SwapTotal"), gib("SwapFree")
    return {
        "total_gib": gib("MemTotal"),
        "available_gib": gib("MemAvailable"),
        "limit_gib": limit and round(limit / 2**30, 2),
        "swap_gib": total,
        "swap_used_gib": None if total is None or free is None else round(total - free, 2),
    }


def limit_facts(shared: Path = Path("/dev/shm")) -> dict[str, Any]:
    """Limits of a process, and the memory that processes share."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        size = round(shutil.disk_usage(shared).total / 2**30, 3)
    except OSError:
        size = None
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return {
        "shared_memory_gib": size,
        "open_files": files[0],
        "open_files_most": files[1],
        "file_size_gib": None if largest == resource.RLIM_INFINITY else round(largest / 2**30, 3),
        "container": any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv")),
    }


def disk_facts(output_dir: str, proc: Path = PROC) -> dict[str, Any]:
    """Room and speed of the disk that runs are written to.

    A file of some megabytes is written there, synced, read back past the cache, and removed.

    Raises:
        OSError: it cannot be written.
    """
    wanted = Path(output_dir).absolute()
    if wanted.exists() and not wanted.is_dir():
        raise OSError(f"{output_dir} is a file")
    folder = next(path for path in (wanted, *wanted.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    file = folder / f".doctor.{os.getpid()}.tmp"
    size = min(WRITTEN, free // PART_OF_FREE) // BLOCK * BLOCK or BLOCK
    try:
        written, found = _write(file, size), _read(file)
        locks = _locks(file)
    finally:
        file.unlink(missing_ok=True)
    return {
        "folder": str(folder),
        "kind": _filesystem(folder, proc),
        "free_gb": round(free / 1e9, 2),
        "write_mb_s": round(size / 1e6 / written, 1),
        "read_mb_s": round(size / 1e6 / found, 1),
        "locks": locks,
    }


def _write(file: Path, size: int) -> float:
    block = os.urandom(BLOCK)
    began = time.perf_counter()
    with file.open("wb") as target:
        for _ in range(size // BLOCK):
            target.write(block)
        target.flush()
        os.fsync(target.fileno())
    return max(time.perf_counter() - began, 1e-6)


def _read(file: Path) -> float:
    with file.open("rb") as source:
        # What was just written lies in memory: the disk is asked.
        os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        while source.read(BLOCK):
            pass
    return max(time.perf_counter() - began, 1e-6)


def _locks(file: Path) -> bool:
    with file.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _filesystem(folder: Path, proc: Path) -> str:
    """The kind of filesystem that a folder lies on: the longest mount point above it counts."""
    kinds = {}
    for line in read(proc / "mounts").splitlines():
        _, place, kind, *_ = line.split(" ")
        kinds[place.replace("\\040", " ")] = kind
    above = (str(path) for path in (folder, *folder.parents))
    return next((kinds[path] for path in above if path in kinds), "unknown")
