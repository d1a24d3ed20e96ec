"""The README's figures are those of files in bench/results, letter for letter."""

import json
from pathlib import Path

import pytest

from bench.readme import RESULTS, ROOT, render, rewritten
from bench.task_results import summarise

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


def test_tasks_have_untuned_and_tuned_side_by_side(tmp_path: Path) -> None:
    def seen(share: float, **more: float) -> dict:
        metrics = {"accuracy": share} | more
        return {"metrics": metrics, "chance": {"accuracy": 0.3}, "count": 398}

    cells = [{"seed": 0, "untuned": seen(0.25), "tuned": seen(0.5)}]
    one, two = (
        summarise("accuracy", some) | {"seconds": 90.0}
        for some in (cells, [*cells, {"seed": 1, "untuned": seen(0.25), "tuned": seen(0.6)}])
    )
    # sqrt(0.5 * 0.5 / 398), and the sample deviation of 0.5 and 0.6.
    assert (one["std"], one["std_over"]) == (pytest.approx(0.02506, abs=1e-5), "held-out items")
    assert (two["std"], two["std_over"]) == (pytest.approx(0.0707, abs=1e-4), "seeds")
    assert one["gain_in_std"] == pytest.approx(0.25 / 0.0332, rel=0.01)
    results = {
        "tasks": {"vqa": one, "nlvr": one | {"metric": "cider"}},
        "machine": {"cores": 2, "cpu": "A"},
        "command": "bash bench/run.sh tasks",
        "date": "20261125",
        "commit": "abc",
        "seeds": [0],
        "notes": [],
        "pretraining_seconds": 120.0,
    }
    (tmp_path / "t.json").write_text(json.dumps(results))
    block = "<!-- tasks: t.json -->\n{}<!-- end of tasks -->"
    text = rewritten(block.format("anything\n"), tmp_path)
    row = "| `vqa` | accuracy | 30.0 % | 25.0 % | 50.0 % ± 2.5 | +25.0 % (7.5 deviations) | 398 |"
    assert row in text and "| `nlvr` | CIDEr | 0.30 | 0.25 | 0.50 ± 0.03 |" in text
    assert "the pretraining before took 2.0." in text
    assert text.endswith("[t.json](bench/results/t.json).\n<!-- end of tasks -->")
    assert rewritten(text, tmp_path) == text
