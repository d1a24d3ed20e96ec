"""The README's figures are those of files in bench/results, letter for letter."""

import json
from pathlib import Path

import pytest

from bench.readme import RESULTS, ROOT, render, rewritten

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_says_what_the_results_say() -> None:
    assert rewritten(README) == README, "run: python -m bench.readme"


def test_a_changed_figure_is_noticed() -> None:
    block = README.split("<!-- figures: ", 1)[1]
    row = next(line for line in block.splitlines() if line.startswith("| ") and "x |" in line)
    assert rewritten(README.replace(row, row.replace("x |", "9x |"))) == README


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"names .*\.json, which is not in bench/results"):
        rewritten(README, tmp_path)
    with pytest.raises(ValueError, match="no table"):
        rewritten("# a README")


def test_rows_have_median_quartiles_and_verdict() -> None:
    spread = {"q1": 1.5, "q3": 1.75, "repeats": 5}
    results = {
        "figures": {"step_time_ratio_fp32": 1.6, "flops_per_pair_ratio": 1.57},
        "spread": {
            "step_time_ratio_fp32": spread,
            "flops_per_pair_ratio": {"q1": 1.57, "q3": 1.57, "repeats": 1},
        },
        "machine": {"cores": 2, "cpu": "A"},
        "hardware": "cpu",
        "command": "bash bench/run.sh cpu",
        "date": "20261125",
        "commit": "abc",
    }
    table = render("x.json", json.loads(json.dumps(results)))
    assert "| 1.60x | 1.50x to 1.75x | >= 1.50x met |" in table
    assert "| 1.57x | counted |  |" in table
    assert (RESULTS / "x.json").exists() is False
