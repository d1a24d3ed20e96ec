"""`install.sh`: when it installs what, with stand-ins for Python and NVIDIA's program."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.ranks import ROOT

# Makes itself the .venv's Python; notes what pip is asked for; its torch is what a file says.
PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  *"torch.version.cuda"*) grep -q cuda torch ;;
  *"torch==2.13.0+cpu") echo "$*" >>asked; echo cpu >torch ;;
  *"--force-reinstall"*"torch==2.13.0") echo "$*" >>asked; echo cuda >torch ;;
  *" pip "*) echo "$*" >>asked ;;
esac
"""


def write_program(path: Path, text: str) -> None:
    """A program that can be started."""
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """The files that it looks at, and a Python of ours."""
    (tmp_path / "launch").mkdir()
    for name in ("launch/install.sh", "requirements.txt", "setup.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name, gpu in (("without", "exit 1"), ("with", "echo GPU 0")):
        (tmp_path / name).mkdir()
        write_program(tmp_path / name / "nvidia-smi", f"#!/bin/sh\n{gpu}\n")
    write_program(tmp_path / "python", PYTHON)
    return tmp_path


def asked(place: Path, gpu: str) -> list[str]:
    """What pip is asked for of torch, on a machine `with` or `without` a GPU."""
    path = f"{place / gpu}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHON": str(place / "python")}
    (place / "asked").write_text("")
    subprocess.run(["bash", "launch/install.sh"], cwd=place, env=environment, check=True)
    lines = (place / "asked").read_text().splitlines()
    return [line.partition("install ")[2] for line in lines if "torch" in line]


def test_a_gpu_that_is_seen_later_gets_a_build_for_it(place: Path) -> None:
    assert asked(place, "without") == ["torch==2.13.0+cpu"]
    assert asked(place, "without") == []
    forced = "--force-reinstall --no-deps torch==2.13.0"
    assert asked(place, "with") == [forced, "torch==2.13.0"]
    # A login node of the same disk keeps it.
    assert asked(place, "without") == asked(place, "with") == []


def test_a_build_for_a_gpu_is_not_fetched_again(place: Path) -> None:
    (place / "torch").write_text("cuda")
    assert asked(place, "with") == ["torch==2.13.0"]
