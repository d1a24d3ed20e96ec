"""The bench as a user starts it, with a tiny network: files, figures, the gate."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from bench.figures import base_name, figure_of
from bench.machine import ROOT
from bench.plan import SUITES


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run it on the CPU with the tiny network."""
    command = [sys.executable, "-m", "bench.main", "cpu", "--quick", "--preset", "tiny", *words]
    # pytest-benchmark times nothing where it sees a parallel test run, and this one is its own.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    settings = inherited | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, timeout=1100
    )


@pytest.mark.slow
def test_a_whole_run_leaves_figures_plots_and_a_table(tmp_path: Path) -> None:
    done = bench("--output", str(tmp_path), "--suites", ",".join(SUITES))
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("*.json")
    what, _, date, _ = path.stem.split("_")
    assert what == "bench-quick-tiny" and len(date) == 8
    results = json.loads(path.read_text())
    figures, spread = results["figures"], results["spread"]
    assert figures.keys() == spread.keys()
    assert {base_name(name) for name in figures} >= {
        "flops_per_pair_ratio",
        "saved_bytes_ratio",
        "step_time_ratio_fp32",
        "step_time_ratio_shipped",
        "kernel_itc_loss_ratio",
        "caption_throughput_ratio_hf",
        "loader_ratio_original",
        "samples_unaccounted",
    }
    # A figure of another network than ViT-B never carries a name that is defined for ViT-B.
    assert all("_tiny" in name for name in figures)
    for name, value in figures.items():
        # What must not be more than so much may be nothing.
        least = 0 if figure_of(name).at_most else 1e-9
        assert least <= spread[name]["q1"] <= value <= spread[name]["q3"]
    assert all(len(row["seconds"]) == row["repeats"] == 3 for row in results["times"])
    assert results["machine"]["threads"] == 1 and results["failed"] == []
    assert results["command"].startswith("bash bench/run.sh cpu --quick")
    for picture in tmp_path.glob("*.png"):
        assert min(Image.open(picture).size) > 400
    assert len(list(tmp_path.glob("*.png"))) == 2
    last = done.stdout.rstrip().splitlines()[-1]
    assert last.startswith("note: ") and "flops_per_pair_ratio_tiny" in done.stdout


@pytest.mark.slow
def test_a_red_gate_measures_nothing(tmp_path: Path) -> None:
    done = bench("--output", str(tmp_path), BLIP_GOLDEN=str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "gate is red" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["--suites", "step,speed"], ["--preset", "huge"]])
def test_wrong_words_are_refused_at_once(words: list[str]) -> None:
    done = bench(*words)
    assert done.returncode == 2
    assert words[1].split(",")[-1] in done.stderr and "Traceback" not in done.stderr
