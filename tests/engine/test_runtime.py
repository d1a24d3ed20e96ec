"""What a process sets up before anything is computed."""

import os
import platform
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ranks import ROOT, environment, free_port

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


def test_each_machine_tells_what_it_alone_refuses(tmp_path: Path) -> None:
    words = [sys.executable, ROOT / "launch" / "pretrain.py", "--config", tmp_path / "missing.yaml"]
    said = []
    for local in ("0", "1"):
        second = {**environment(2, 4, 29500), "LOCAL_RANK": local}
        done = subprocess.run(words, env=second, capture_output=True, text=True)
        said.append((done.returncode, done.stderr))
    line = f"error: {platform.node()}: --config {tmp_path}/missing.yaml: no such file\n"
    assert said == [(2, line), (2, "")]


ALONE = """
import os, signal, sys
from engine import runtime
from engine.training.signals import StopRequest
stop = StopRequest()
if sys.argv[1] == "before":
    signal.raise_signal(signal.SIGTERM)
print("waits", flush=True)
runtime.start("cpu", stop)
"""


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_signal_ends_a_process_that_others_never_join(when: str) -> None:
    words = [sys.executable, "-c", ALONE, when]
    ours = environment(0, 2, free_port())
    with subprocess.Popen(words, env=ours, stdout=subprocess.PIPE, text=True) as waiting:
        assert waiting.stdout.readline() == "waits\n"
        if when == "meanwhile":
            while _catches(waiting.pid, signal.SIGTERM):
                time.sleep(0.01)
            os.kill(waiting.pid, signal.SIGTERM)
        assert waiting.wait(120) == -signal.SIGTERM


def _catches(process: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{process}/status").read_text())[1]
    return bool(int(caught, 16) & 1 << number - 1)
