"""What a process sets up before anything is computed."""

import subprocess
import sys

FAULTS = """
import resource, sys, torch
from engine import runtime
if sys.argv[1] == "kept":
    runtime.start_apart("cpu")
for _ in range(10):
    torch.zeros(12 * 2**20).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(12 * 2**20).add_(1)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(way: str) -> int:
    """First touches of a page while 48 MiB are taken and given back ten times."""
    command = [sys.executable, "-c", FAULTS, way]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_used_again() -> None:
    plain, kept = page_faults("plain"), page_faults("kept")
    assert kept < plain / 2, (plain, kept)
