"""`doctor.py` on this machine, as a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launch import doctor
from tests.commands import call
from tests.ranks import ROOT


def run(folder: Path, **environment: str) -> tuple[int, dict[str, Any]]:
    """Its exit code and what it prints for machines, and nothing else."""
    words = ["--json", "--output_dir", str(folder / "new")]
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / "doctor.py"), *words],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1100,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it says of this machine."""
    folder = tmp_path_factory.mktemp("runs")
    code, answer = run(folder)
    assert list(folder.iterdir()) == []
    assert (answer["errors"] > 0) == (code == 2)
    return answer


def test_every_probe_answers(said: dict[str, Any]) -> None:
    failed = {
        name: outcome["problem"]
        for name, outcome in said["probes"].items()
        if name not in ("attention", "triton") and outcome["problem"]
    }
    assert failed == {}
    assert said["errors"] == 0, said["findings"]


def test_backends_were_tried(said: dict[str, Any]) -> None:
    backends = said["probes"]["attention"]
    assert len(backends) == 19
    for name in ("math", "sdpa", "packed padded", "packed reference"):
        assert backends[name]["problem"] is None
    if not said["probes"]["gpus"]["facts"]:
        assert "it needs an NVIDIA GPU" in backends["flash_attn_2"]["problem"]
    assert set(said["probes"]["triton"]) == {
        "add_norm",
        "norm made again",
        "linears",
        "linear_gelu",
        "linear_rows",
        "mlp",
        "mlp by rows",
        "itc_loss",
        "lm_loss",
        "draw_hard_negatives",
        "adamw_ema_",
        "attention_joined",
        "attention_rows",
        "attention_pictures",
        "attention of few queries",
        "attention_step_",
        "nucleus_draw",
        "beam_candidates",
    }
    # Without a GPU in the interpreter, whose variable tests hand on.
    assert {one["problem"] for one in said["probes"]["triton"].values()} == {None}


def test_facts_are_this_machines(said: dict[str, Any]) -> None:
    facts = {name: outcome.get("facts") for name, outcome in said["probes"].items()}
    import torch

    assert facts["torch"]["version"] == torch.__version__
    assert facts["products"]["gflops"]["fp32"] > 0
    assert facts["collectives"]["gloo"]["works"]
    assert facts["deepspeed"]["operations"]


def test_a_library_that_crashes_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    crash = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"
    (tmp_path / "broken" / "torch" / "__init__.py").write_text(crash)
    code, answer = run(tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    errors = {one["name"]: one["line"] for one in answer["findings"] if one["severity"] == "error"}
    assert code == 2
    assert set(errors) == {"torch_failed", "deepspeed_failed", "collectives_failed"}
    assert "crashed: SIGSEGV; install PyTorch for this machine anew" in errors["torch_failed"]
    assert answer["probes"]["disk"]["facts"]["write_mb_s"] > 0


def test_wrong_words_are_one_line() -> None:
    done = call(doctor.main, "--jsn")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: unknown key 'jsn': did you mean 'json'?\n"
