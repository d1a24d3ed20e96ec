"""Where figures were measured: what somebody needs to know to compare them."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from engine.machine import cores, cpu_flags, multiplies_bf16, processor, version

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "torch",
    "transformers",
    "triton",
    "numpy",
    "pillow",
    "webdataset",
    "opencv-python-headless",
    "liger-kernel",
    "cut-cross-entropy",
)


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, memory, GPU, versions, and how busy the machine was when the run began."""
    facts: dict[str, Any] = {
        "cpu": processor(),
        "cores": cores(),
        "cpu_flags": cpu_flags(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    if device.type == "cuda":
        facts |= {
            "gpu": torch.cuda.get_device_name(device),
            "gpu_memory_gib": round(torch.cuda.get_device_properties(device).total_memory / 2**30),
            "cuda": torch.version.cuda,
            "gpu_state": _gpu_state(),
        }
    return facts


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 by instructions of its own."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return multiplies_bf16()


def hardware_slug(facts: dict[str, Any]) -> str:
    """Short name for files: `h100-80gb-hbm3`, `amd-epyc-2-cores`."""
    name = facts.get("gpu") or f"{facts['cpu']} {facts['cores']} cores"
    name = re.sub(r"\((r|tm)\)|\bnvidia\b|\bprocessor\b|\bcpu\b|@.*?ghz", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", name).strip("-")


def commit() -> str:
    """Short name of the checked-out commit; `-dirty` where tracked files differ from it."""
    try:
        name = _run("git", "rev-parse", "--short=7", "HEAD")
        changed = _run("git", "status", "--porcelain", "--untracked-files=no", "--", ".")
    except (OSError, subprocess.SubprocessError):
        return "nocommit"
    changed = [line for line in changed.splitlines() if "bench/results/" not in line]
    return f"{name}-dirty" if changed else name


def today() -> str:
    """`20261124`, UTC."""
    return datetime.now(UTC).strftime("%Y%m%d")


def _gpu_state() -> str:
    """Driver, clocks and power limit, which decide what a GPU can reach."""
    asked = "driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu"
    try:
        return _run("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader").splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()
