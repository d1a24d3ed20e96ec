"""Scores of web texts above a line and of synthetic texts below it, as inline SVG."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from engine.report.score_bins import ScoreBins

AXES = {"itm": 1, "itc": 0}
MIDDLE = 50.0
REACH = 48.0


def histogram(bins: ScoreBins, axis: str, own: float | None) -> dict[str, Any]:
    """One score's distribution, drawn to be stretched to any size.

    Heights go with the square root of the counts, so that a bin of few texts is seen beside one of
    many. Every bar carries the number of its bin for the page's script.

    Args:
        bins: all texts.
        axis: `itm` or `itc`.
        own: the run's threshold, marked by a line.

    Returns:
        `svg`, `low` and `high` (ends of the axis), `step` (between two edges) and `labels`.
    """
    edges = getattr(bins, axis)
    low, high = float(edges[0]), float(edges[-1])
    counts = {part: _closed(bins.counts[part].sum(AXES[axis])) for part in ("web", "synthetic")}
    most = max(int(both.max()) for both in counts.values()) or 1

    def across(score: float) -> float:
        return 100 * (score - low) / (high - low)

    parts = ['<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">']
    for part, direction in (("web", -1), ("synthetic", 1)):
        for number, count in enumerate(counts[part].tolist()):
            if not count:
                continue
            left, right = across(edges[number]), across(edges[number + 1])
            height = max(REACH * (count / most) ** 0.5, 0.8)
            top = MIDDLE - height if direction < 0 else MIDDLE
            parts.append(
                f'<rect class="{part}" data-bin="{number}" x="{left:.2f}" y="{top:.2f}" '
                f'width="{max((right - left) * 0.86, 0.1):.2f}" height="{height:.2f}"/>'
            )
    parts.append(f'<path class="grid-line" d="M0 {MIDDLE}H100"/>')
    if own is not None and low <= own <= high:
        parts.append(f'<path class="own" d="M{across(own):.2f} 0V100"/>')
    parts.append("</svg>")
    step = float(np.diff(edges).max())
    labels = [f"{low + part * (high - low) / 4:.2f}" for part in range(5)]
    return {"svg": Markup("".join(parts)), "low": low, "high": high, "labels": labels} | {
        "step": round(step, 2)
    }


def _closed(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Counts between the edges; what lies at or above the last one is drawn just below it."""
    closed = np.array(counts[:-1])
    closed[-1] += counts[-1]
    return closed
