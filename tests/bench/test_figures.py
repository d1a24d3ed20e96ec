"""Names, targets and the printed table of the figures."""

import re

import pytest

from bench.figures import FIGURES, figure_of, table, verdict
from bench.interleaved import Spread
from bench.machine import ROOT, hardware_slug
from bench.record import Record

CONTRACT = (
    "flops_per_pair_ratio",
    "saved_bytes_ratio",
    "step_time_ratio_fp32",
    "step_time_ratio_bf16",
    "step_time_ratio_shipped",
    "caption_throughput_ratio_hf",
)


def test_the_figures_that_others_rely_on_are_there() -> None:
    assert set(CONTRACT) <= set(FIGURES)


def test_the_readme_explains_every_figure_and_no_other() -> None:
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## The figures")[2].partition("## ")[0]
    named = set(re.findall(r"^\| `([a-z0-9_]+)` \|", section, re.MULTILINE))
    assert named == set(FIGURES)


def test_every_figure_that_a_suite_keeps_is_known() -> None:
    """By the names that are written out: of one that is not, the run's table would fail."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "bench").glob("*.py")]
    named = {name for text in texts for name in re.findall(r'figure\(\s*f?"([a-z0-9_]+)', text)}
    assert len(named) > 50
    # What a name begins with may be written out alone.
    begun = tuple(FIGURES)
    unknown = [n for n in named if not (n.startswith(begun) or any(b.startswith(n) for b in begun))]
    assert unknown == []


@pytest.mark.parametrize(
    ("name", "value", "hardware", "expected"),
    [
        ("flops_per_pair", 195e9, "cpu", "<= 200 GFLOP met"),
        ("flops_per_pair", 201e9, "gpu", "<= 200 GFLOP MISSED"),
        ("step_time_ratio_fp32", 1.49, "cpu", ">= 1.50x MISSED"),
        ("step_time_ratio_fp32_small_batch16", 1.5, "cpu", ">= 1.50x met"),
        ("step_time_ratio_fp32", 1.49, "gpu", ""),
        ("step_time_ratio_fp32_tiny_batch4", 1.49, "cpu", ""),
        ("kernel_ema_ratio", 3.0, "cpu", ""),
    ],
)
def test_verdicts(name: str, value: float, hardware: str, expected: str) -> None:
    assert verdict(name, value, hardware) == expected


def test_a_longer_name_is_not_taken_for_a_shorter_one() -> None:
    assert figure_of("flops_per_pair_ratio_tiny") is FIGURES["flops_per_pair_ratio"]
    with pytest.raises(KeyError, match="no figure"):
        figure_of("flops_per_pairs")


def test_the_table_shows_spread_repeats_and_notes() -> None:
    record = Record()
    record.figure("step_time_ratio_fp32", Spread(1.62, 1.6, 1.65, 5))
    record.figure("flops_per_pair", 195.1e9)
    record.note("no GPU here")
    lines = table({"hardware": "cpu", **vars(record)}).splitlines()
    assert lines[2].split() == [
        "flops_per_pair",
        "195.1",
        "GFLOP",
        "counted",
        *["<=", "200", "GFLOP", "met"],
    ]
    assert "1.62x" in lines[3] and "1.60x to 1.65x" in lines[3] and " 5 " in lines[3]
    assert lines[-1] == "note: no GPU here"


@pytest.mark.parametrize(
    ("facts", "slug"),
    [
        ({"cpu": "AMD EPYC", "cores": 2}, "amd-epyc-2-cores"),
        ({"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 8}, "intel-xeon-8-cores"),
        ({"cpu": "x", "cores": 2, "gpu": "NVIDIA H100 80GB HBM3"}, "h100-80gb-hbm3"),
    ],
)
def test_file_names_say_the_hardware(facts: dict, slug: str) -> None:
    assert hardware_slug(facts) == slug
