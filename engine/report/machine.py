"""The machine and the versions, as the report's reader needs them to compare figures."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "deepspeed", "transformers", "triton", "numpy", "pillow")


def machine() -> list[tuple[str, str]]:
    """This machine and the installed versions, named for what they are: those of the report."""
    versions = [f"{name} {version}" for name in PACKAGES if (version := _version(name))]
    memory = _memory()
    hardware = f"{os.cpu_count()} CPU cores ({_processor()})"
    return [
        ("report made on", f"{hardware}, {memory}" if memory else hardware),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("packages", ", ".join(versions) or "none installed"),
    ]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """The processor's name; Linux keeps it in /proc only."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1].strip() if named else platform.processor() or platform.machine()


def _memory() -> str | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return f"{size / 2**30:.0f} GiB memory"


def commit() -> str | None:
    """Short name of the checked-out commit, `-dirty` where a tracked file differs; None outside."""
    try:
        name = _git("rev-parse", "--short=7", "HEAD")
        return f"{name}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else name
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*words: str) -> str:
    done = subprocess.run(
        ("git", *words), cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()
