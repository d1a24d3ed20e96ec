"""Charts have readable ticks, lose no spike, leave gaps where nothing is known, and stay small."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.report.charts import HEIGHT, WIDTH, compact, line_chart, smooth, tick_labels, ticks
from engine.report.curves import MATCHING_BY_CHANCE
from engine.report.scores import directions, meaning, percent, summary, times
from engine.report.sections import duration


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"), (1, "1"), (1.5, "1.5"), (0.05, "0.05"), (3e-4, "3e-4"), (1.25e-6, "1.25e-6"),
        (999, "999"), (1200, "1.2k"), (76_800, "76.8k"), (999_999, "1M"), (2.5e9, "2.5B"),
        (-1500, "-1.5k"), (math.nan, "not finite"),
    ],
)  # fmt: skip
def test_compact(value: float, text: str) -> None:
    assert compact(value) == text


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_are_round_inside_and_few(low: float, span: float) -> None:
    high = low + span
    if high - low < 1e-9 * max(abs(low), abs(high)):
        return
    found = ticks(low, high)
    slack = 1e-6 * (high - low)
    assert 1 <= len(found) <= 9
    assert all(low - slack <= tick <= high + slack for tick in found)
    for a, b in pairwise(found):
        mantissa = (b - a) / 10 ** math.floor(math.log10(b - a) + 1e-6)
        assert min(abs(mantissa - m) for m in (1, 2, 5, 10)) < 1e-2


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 10))
def test_tick_labels_tell_ticks_apart(low: float, relative_span: float) -> None:
    found = ticks(low, low + relative_span * max(abs(low), 1e-3))
    assert len(set(tick_labels(found))) == len(found)
    assert tick_labels([10.32, 10.33, 10.34]) == ["10.32", "10.33", "10.34"]
    assert tick_labels([0.0, 100000.0, 150000.0]) == ["0", "100k", "150k"]


def test_smooth_keeps_a_line_its_mean_and_its_gaps() -> None:
    assert smooth([2.0] * 100) == pytest.approx([2.0] * 100)
    line = smooth([float(i) for i in range(200)])
    assert line[50:150] == pytest.approx([float(i) for i in range(50, 150)])
    gapped = smooth([1.0] * 50 + [math.nan] + [1.0] * 50)
    assert math.isnan(gapped[50])
    assert gapped[:50] + gapped[51:] == pytest.approx([1.0] * 100)
    noisy = [(-1.0) ** i for i in range(200)]
    assert max(map(abs, smooth(noisy))) < 0.25


def places(svg: str, kind: str) -> list[tuple[float, float]]:
    """Corners of a drawn line."""
    path = re.search(rf'<path class="{kind}" d="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path[1])]


def test_a_chart_is_well_formed_and_inside_its_frame() -> None:
    svg = line_chart([(s, 5 - s / 1000) for s in range(0, 3000, 10)], label="a < b & c")
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == "a < b & c: 5 at step 0, 2.01 at step 2990; between 2.01 and 5"
    for x, y in places(svg, "raw") + places(svg, "smooth"):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    falling = [y for _, y in places(svg, "smooth")]
    assert falling == sorted(falling)
    titles = [title.text for title in root.iter("title")]
    assert 40 <= len(titles) <= 80
    assert titles[0].startswith("step 0\na < b & c 5")


def test_thinning_keeps_a_spike_and_the_chart_small() -> None:
    points = [(float(s), 1.0 + 0.1 * math.sin(s)) for s in range(100_000)]
    points[54_321] = (54_321.0, 1.25)
    svg = line_chart(points, label="x")
    heights = sorted(y for _, y in places(svg, "raw"))
    assert heights[0] < heights[1] - 5
    assert len(svg) < 40_000


def test_a_few_wild_values_do_not_flatten_the_rest() -> None:
    points = [(float(s), 1.0 + s / 1000) for s in range(1000)]
    points[500] = (500.0, 1e9)
    svg = line_chart(points, label="x")
    heights = sorted(y for _, y in places(svg, "raw"))
    assert heights[-1] - heights[1] > 60
    assert min(y for _, y in places(svg, "smooth")) > heights[1] - 5


def test_gaps_single_points_and_nothing() -> None:
    points = [(float(s), math.nan if s == 50 else 1.0 + s) for s in range(100)]
    raw = re.search(r'class="raw" d="([^"]*)"', line_chart(points, label="x"))[1]
    assert raw.count("M") == 2
    assert 'd="M' in line_chart([(5.0, 1.0)], label="x")
    assert line_chart([(1.0, math.nan)], label="x") == '<p class="absent">No finite values.</p>'
    constant = line_chart([(1.0, 0.0), (2.0, 0.0)], label="x", from_zero=True)
    assert "nan" not in constant


def test_the_reference_is_drawn_only_in_sight() -> None:
    near = line_chart([(1.0, 0.3), (2.0, 0.6)], label="x", reference=(0.64, "guessing"))
    far = line_chart([(1.0, 0.3), (2.0, 0.31)], label="x", reference=(0.64, "guessing"))
    assert "guessing" in near
    assert "guessing" not in far
    assert pytest.approx(0.6365, abs=1e-4) == MATCHING_BY_CHANCE


def test_scores_stand_beside_chance() -> None:
    results = {
        "metrics": {"text_to_image_r1": 0.2, "text_to_image_r5": 0.625, "image_to_text_r5": 0.7}
        | {"text_to_image_r5_without_matching": 0.5, "text_to_image_r5_other": 0.9},
        "chance": {"text_to_image_r5": 0.02},
        "count": 400,
    }
    first, second = directions(results)
    assert [(r.cutoff, r.value, r.chance) for r in first.recalls] == [
        (1, 0.2, 1 / 400),
        (5, 0.625, 0.02),
    ]
    assert [r.contrastive for r in first.recalls] == [None, 0.5]
    assert first.recalls[1].times_chance == pytest.approx(31.25)
    assert second.recalls[0].chance == 5 / 400
    assert "63 % of the time" in meaning([first, second], 400)
    assert summary([second]) == ["Picture to caption: R@5 70 % (chance 1.3 %)"]
    assert directions(None) == []
    assert meaning([second], 400) is None


def test_numbers_read_well() -> None:
    assert [percent(x) for x in (0, 0.0025, 0.0125, 0.099, 0.62, 1)] == [
        "0 %", "0.25 %", "1.3 %", "9.9 %", "62 %", "100 %",
    ]  # fmt: skip
    assert (times(1.44), times(49.6)) == ("1.4", "50")
    assert [duration(x) for x in (45, 500, 12_000, 187_200)] == [
        "45 s", "8 min", "3 h 20 min", "2 d 4 h",
    ]  # fmt: skip
