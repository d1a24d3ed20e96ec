"""From cells to figures: areas under curves by hand, means, spread, paired gains, order of work."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engine.ablation.arms import ARMS, CORE, base_of, in_order
from engine.ablation.config import AblationConfig, WorldSection
from engine.ablation.figure import draw
from engine.ablation.results import collect_cells, spread, summarise, table
from engine.ablation.scoring import judge_by_record
from engine.capfilt.config import RuleSection
from engine.config import ConfigError

HALF = RuleSection(itm_threshold=0.5)


def config(**changes: Any) -> AblationConfig:
    return AblationConfig(data=WorldSection(train="pairs", eval="held"), **changes)


def judged(true: list[float], swapped: list[float]) -> dict[str, float]:
    """A filter that gave these scores; its cosines are their negatives."""
    rows = [(score, False) for score in true] + [(score, True) for score in swapped]
    scores = {str(number): (score, -score) for number, (score, _) in enumerate(rows)}
    return judge_by_record(scores, {str(n): wrong for n, (_, wrong) in enumerate(rows)}, HALF)


@pytest.mark.parametrize(
    ("true", "swapped", "area"),
    [
        ([0.9, 0.8], [0.1, 0.2], 1.0),
        ([0.1], [0.9, 0.7], 0.0),
        ([0.5, 0.5], [0.5], 0.5),
        # Of six comparisons: 0.6 beats 0.5 and 0.2; 0.5 beats 0.2 and ties with 0.5; 0.2 ties once.
        ([0.6, 0.5, 0.2], [0.5, 0.2], 4 / 6),
    ],
)
def test_area_by_hand(true: list[float], swapped: list[float], area: float) -> None:
    found = judged(true, swapped)
    assert found["filter_auc"] == pytest.approx(area)
    assert found["filter_auc_itc"] == pytest.approx(1 - area)


def test_what_is_kept_is_counted() -> None:
    found = judged([0.9, 0.5, 0.4, 0.8], [0.6, 0.1])
    assert found["filter_recall"] == 0.75
    assert found["filter_kept_swapped"] == 0.5
    assert found["filter_precision"] == pytest.approx(0.75 / 1.25)


def test_pairs_without_a_score_are_left_out() -> None:
    swapped = {"a": False, "b": True, "bad": True}
    assert judge_by_record({"a": (0.9, 0.1), "b": (0.2, 0.1)}, swapped, HALF)["filter_auc"] == 1.0


def test_both_thresholds_of_a_rule_count() -> None:
    scores = {"a": (0.9, 0.3), "b": (0.8, 0.1), "c": (0.7, 0.4), "d": (0.1, 0.9)}
    swapped = {"a": False, "b": False, "c": True, "d": True}
    found = judge_by_record(scores, swapped, RuleSection(itm_threshold=0.5, itc_threshold=0.2))
    assert (found["filter_recall"], found["filter_kept_swapped"]) == (0.5, 0.5)


def test_a_pair_at_both_thresholds_is_kept() -> None:
    scores, swapped = {"a": (0.5, 0.25), "b": (0.25, 0.25)}, {"a": False, "b": True}
    found = judge_by_record(scores, swapped, RuleSection(itm_threshold=0.5, itc_threshold=0.25))
    assert (found["filter_recall"], found["filter_kept_swapped"]) == (1.0, 0.0)


def cell(arm: str, seed: int, r1: float, **more: Any) -> dict[str, Any]:
    facts = {"arm": arm, "seed": seed, "clean_fraction": ARMS[arm].clean or 0.1}
    facts |= {f"retrieval_r{k}{way}": r1 for k in (1, 5) for way in ("", "_contrast")}
    facts |= {"chance_r1": 0.01, "chance_r5": 0.05, "cider": None if "align" in arm else 2 * r1}
    cost = {"pairs": 10, "steps": 5, "samples": 40, "flop": 3e12, "seconds": 90.0}
    return facts | cost | more


CELLS = [
    cell("none", 0, 0.1),
    cell("none", 1, 0.3),
    cell("both", 0, 0.2, filter_auc=0.8),
    cell("both", 1, 0.5, filter_auc=0.9),
    cell("both", 2, 0.6, filter_auc=1.0),
    cell("align", 0, 0.1),
    cell("none_clean1", 0, 0.4),
    cell("both_clean1", 0, 0.3, filter_auc=0.5),
]


def test_results_hold_means_spread_and_paired_gains() -> None:
    found = summarise(CELLS, config(), "the command")
    assert found["filter_auc"] == {
        "mean": pytest.approx(0.9),
        "std": pytest.approx(0.1),
        "values": [0.8, 0.9, 1.0],
    }
    assert list(found["arms"]) == ["none", "both", "align", "none_clean1", "both_clean1"]
    none, both = found["arms"]["none"], found["arms"]["both"]
    assert none["retrieval_r1"]["mean"] == pytest.approx(0.2)
    assert none["retrieval_r1"]["std"] == pytest.approx(math.sqrt(0.02))
    assert "gain_over_none" not in none
    # Seed 2 has no partner: 0.1 and 0.2.
    gain = both["gain_over_none"]
    assert (gain["seeds"], gain["over"]) == ([0, 1], "none")
    assert gain["mean"] == pytest.approx(0.15)
    assert gain["std"] == pytest.approx(math.sqrt(0.005))
    assert "cider" not in found["arms"]["align"]
    small = found["arms"]["both_clean1"]["gain_over_none"]
    assert (small["over"], small["std"]) == ("none_clean1", None)
    assert small["mean"] == pytest.approx(-0.1)
    assert found["command"] == "the command" and found["seeds"] == [0, 1, 2]
    json.dumps(found)


def test_an_arm_of_contrast_alone_gains_over_contrast() -> None:
    """Its R@1 is never re-ranked: beside a re-ranked one it would gain what matching loses."""
    cells = [cell("none", 0, 0.1, retrieval_r1_contrast=0.4), cell("align", 0, 0.3)]
    found = summarise(cells, config(), "")
    gain = found["arms"]["align"]["gain_over_none"]
    assert gain["mean"] == pytest.approx(-0.1)
    assert gain["figure"] == "retrieval_r1_contrast"
    assert next(row for row in table(found).splitlines() if "| align |" in row).count("-10.0") == 1


def test_one_value_has_no_spread() -> None:
    assert spread([0.25]) == {"mean": 0.25, "std": None, "values": [0.25]}


def test_the_table_and_the_figure_show_every_arm(tmp_path: Path) -> None:
    found = summarise(CELLS, config(), "")
    rows = table(found).splitlines()
    both = next(row for row in rows if row.startswith("| both |"))
    assert "43.3 ± 20.8" in both and "+15.0 ± 7.1" in both and "0.900 ± 0.100" in both
    assert sum(row.startswith("| ") for row in rows) == 2 + 5
    draw(found, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width == 1800
        # Bars, dots and text.
        assert len(image.getcolors(1 << 20)) > 5


def test_cells_of_every_process_are_found(tmp_path: Path) -> None:
    for number, facts in enumerate(CELLS):
        folder = tmp_path / f"seed_{facts['seed']}" / facts["arm"]
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps(CELLS[number]))
    (tmp_path / "seed_3" / "none").mkdir(parents=True)
    found = collect_cells(tmp_path)
    assert sorted(map(json.dumps, found)) == sorted(map(json.dumps, CELLS))


def test_core_arms_of_all_seeds_come_first() -> None:
    cells = in_order(["both_clean1", "both", "align", "none"], [5, 7])
    assert cells[:4] == [(5, "none"), (5, "both"), (7, "none"), (7, "both")]
    assert cells[4:] == [(5, "align"), (7, "align"), (5, "both_clean1"), (7, "both_clean1")]
    assert tuple(ARMS)[:4] == CORE
    bases = {name: base_of(name) for name in ("both", "align", "none_clean3", "both_clean3")}
    assert bases == {
        "both": "none",
        "align": "none",
        "none_clean3": "none_clean3",
        "both_clean3": "none_clean3",
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"noise": 1.5}, "noise is 1.5: must be at least 0 and below 1"),
        ({"noise": 1.0}, "noise is 1.0: must be at least 0 and below 1"),
        ({"arms": ["bth"]}, "unknown arm 'bth': did you mean 'both'?"),
        ({"arms": ["zzzz"]}, "unknown arm 'zzzz': known are none, filter"),
        ({"arms": []}, "arms is empty"),
        ({"seeds": [1, 1]}, "seeds: one is named twice"),
        ({"seeds": [0, -1]}, "seeds: one is -1: must be at least 0"),
        ({"clean_fraction": 1.0}, "clean_fraction is 1.0: must be"),
        ({"data": WorldSection(train="pairs")}, "set data.eval"),
    ],
)
def test_misuse_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        AblationConfig(**({"data": WorldSection(train="pairs", eval="held")} | changes))
