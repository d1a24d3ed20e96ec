"""Correctness first: no figure is measured by code that does not give the original's numbers."""

import re
import subprocess
import sys
from pathlib import Path

from bench.machine import ROOT
from engine.machine import cores

RED = 2
# Processes, where there are four processors for each: on a GPU they have kernels to compile.
MOST = 8


def passes() -> bool:
    """Run the golden tests, ours and those of the original that we measure against."""
    # Only their files: to import those of all tests takes longer than to run these.
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if _holds(path)]
    command = [sys.executable, "-m", "pytest", "-k", "golden", *files, "-q", "-x", "--no-header"]
    command += ["--numprocesses", str(min(MOST, cores() // 4))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0:
        print(f"gate: golden tests pass ({lines[-1].strip('= ')})", flush=True)
        return True
    print("\n".join(lines[-25:]))
    print(done.stderr[-2000:], file=sys.stderr)
    return False


def _holds(path: Path) -> bool:
    tests = re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return any("golden" in name for name in (path.name, *tests))
