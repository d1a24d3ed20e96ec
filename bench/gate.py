"""Correctness first: no figure is measured by code that does not give the original's numbers."""

import subprocess
import sys

from bench.machine import ROOT

RED = 2


def passes() -> bool:
    """Run the golden tests, ours and those of the original that we measure against."""
    command = [sys.executable, "-m", "pytest", "-k", "golden", "tests", "-q", "-x", "--no-header"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0:
        print(f"gate: golden tests pass ({lines[-1].strip('= ')})", flush=True)
        return True
    print("\n".join(lines[-25:]))
    print(done.stderr[-2000:], file=sys.stderr)
    return False
