"""The machine and the versions, as the report's reader needs them to compare figures."""

import os
import platform
import subprocess
from pathlib import Path

from engine.machine import memory_bytes, processor, version

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "deepspeed", "transformers", "triton", "numpy", "pillow")


def machine() -> list[tuple[str, str]]:
    """This machine and the installed versions, named for what they are: those of the report."""
    versions = [f"{name} {found}" for name in PACKAGES if (found := version(name))]
    memory = _memory()
    hardware = f"{os.cpu_count()} CPU cores ({processor()})"
    return [
        ("report made on", f"{hardware}, {memory}" if memory else hardware),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("packages", ", ".join(versions) or "none installed"),
    ]


def _memory() -> str | None:
    size = memory_bytes()
    return size and f"{size / 2**30:.0f} GiB memory"


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
