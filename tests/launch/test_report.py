"""The report's command: a page for a run, one line and exit code 2 for anything else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def report(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, from anywhere."""
    command = [sys.executable, str(ROOT / "launch" / "report.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500)


def test_a_run_becomes_a_page(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    row = {"step": 10, "samples_seen": 640, "loss_itc": 3.0}
    (tmp_path / "mine" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    done = report("--run", "mine", "--output", "new/page.html", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "report: new/page.html\n"
    assert "Pretrained for 10 steps" in (tmp_path / "new" / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "empty"], "empty: holds nothing to report"),
        (["--run", "missing"], "missing: no such folder"),
        (["--rum", "empty"], "did you mean 'run'"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    done = report(*words, folder=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))
