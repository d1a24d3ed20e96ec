"""The machine as its system tells it: processor, memory, limits. No library is needed for it."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
# Which instructions matrix products can use; bf16 is only fast with the last ones.
FLAGS = ("avx2", "fma", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "bf16")
BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def processor(proc: Path = PROC) -> str:
    """The processor's name; Linux keeps it in /proc only."""
    named = _named(read(proc / "cpuinfo"), "model name")
    return named or platform.processor() or platform.machine()


def cpu_flags(proc: Path = PROC) -> list[str]:
    """Those of `FLAGS` that this processor has."""
    text = read(proc / "cpuinfo")
    there = (_named(text, "flags") or _named(text, "Features") or "").split()
    return [flag for flag in FLAGS if flag in there]


def multiplies_bf16(proc: Path = PROC) -> bool:
    """Whether the processor multiplies bfloat16 by instructions of its own."""
    return any(flag in cpu_flags(proc) for flag in BF16)


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def core_share(cgroup: Path = CGROUP, proc: Path = PROC) -> float | None:
    """Cores' worth of time that the container is given; None where nothing limits it."""
    shares = []
    for group in _groups("cpu", cgroup, proc):
        quota, _, period = read(group / "cpu.max").strip().partition(" ")
        if not period:
            # Control groups of the first version.
            quota, period = (
                read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
            )
        if quota.isdigit() and period.isdigit() and int(period):
            shares.append(int(quota) / int(period))
    return min(shares, default=None)


def memory_bytes() -> int | None:
    """Memory of the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def memory_limit(cgroup: Path = CGROUP, proc: Path = PROC) -> int | None:
    """Bytes that the container may take; None where nothing below the machine's limits it."""
    limits = [memory_bytes() or 1 << 60]
    for group in _groups("memory", cgroup, proc):
        for name in ("memory.max", "memory.limit_in_bytes"):
            stated = read(group / name).strip()
            limits += [int(stated)] if stated.isdigit() else []
    return min(limits) if min(limits) < limits[0] else None


def _groups(controller: str, cgroup: Path, proc: Path) -> list[Path]:
    """Folders of this process's control group and of those around it, whose limits all hold.

    The second version of control groups has one tree, the first one a controller.
    """
    found = []
    for line in ["0::/", f"0:{controller}:/", *read(proc / "self" / "cgroup").splitlines()]:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            root = cgroup / controller if controllers else cgroup
            group = root / path.lstrip("/")
            found += [one for one in (group, *group.parents) if one.is_relative_to(root)]
    return found


def version(name: str) -> str | None:
    """Of an installed distribution; None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def read(path: Path) -> str:
    """A file of the system; "" where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _named(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None
