"""Losses, schedule and speed over the optimizer steps, a small chart each."""

import math
from dataclasses import dataclass
from typing import Any

from engine.data.dialogues import WRONG
from engine.report.charts import Point, compact, line_chart, smooth
from engine.report.run_folder import RunFolder, last_value, number

# Entropy of one matching pair in three, as matching is trained: what guessing by frequency costs.
MATCHING_BY_CHANCE = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3
# The same of one right answer among the wrong ones of a dialogue's round.
ANSWERING_BY_CHANCE = math.log(1 + WRONG) - WRONG / (1 + WRONG) * math.log(WRONG)


@dataclass(frozen=True)
class Curve:
    """One metric and how to draw it; the drawing's settings are those of `line_chart`."""

    key: str
    title: str
    explanation: str
    unit: str = ""
    reference: tuple[float, str] | None = None
    from_zero: bool = False
    exact: bool = False


CURVES = (
    Curve("loss_itc", "Contrastive loss", "ITC: tells pictures and captions apart"),
    Curve(
        "loss_itm",
        "Matching loss",
        "ITM: does this caption belong to this picture?",
        reference=(MATCHING_BY_CHANCE, "guessing"),
    ),
    Curve("loss_lm", "Captioning loss", "LM: predicts the next word of the caption"),
    Curve(
        "loss_nlvr",
        "Two-picture loss",
        "NLVR2: is the sentence true of the two pictures?",
        reference=(math.log(2), "guessing"),
    ),
    Curve(
        "loss_visdial",
        "Dialogue loss",
        "VisDial: is this answer right after what was said?",
        reference=(ANSWERING_BY_CHANCE, "guessing"),
    ),
    Curve("images_per_second", "Throughput", "over all ranks", " pairs/s", from_zero=True),
    Curve("lr", "Learning rate", "schedule of the optimizer", from_zero=True, exact=True),
    Curve("temperature", "Temperature", "learned scale of the contrastive loss"),
)


def curves(run: RunFolder) -> dict[str, Any]:
    """The curves that have a value at all, each with its chart and where it ends."""
    drawn = [(curve, _points(run, curve.key)) for curve in CURVES]
    charts = [
        {"curve": curve, "last": compact(_end(points, curve.exact)), "svg": _chart(curve, points)}
        for curve, points in drawn
        if any(math.isfinite(value) for _, value in points)
    ]
    return {"charts": charts, "skipped": last_value(run, "skipped_steps")}


def _points(run: RunFolder, key: str) -> list[Point]:
    """(step, value); a logged null is an interval without a finite value: a gap in the curve."""
    points = []
    for row in run.metrics:
        step, value = number(row["step"]), number(row.get(key))
        if value is None and key in row and row[key] is None:
            value = math.nan
        if step is not None and value is not None:
            points.append((step, value))
    return points


def _chart(curve: Curve, points: list[Point]) -> str:
    return line_chart(
        points,
        label=curve.title,
        show=lambda value: compact(value) + curve.unit,
        reference=curve.reference,
        from_zero=curve.from_zero,
        exact=curve.exact,
    )


def _end(points: list[Point], exact: bool) -> float:
    """The last finite value, of the smoothed series unless the values have no noise."""
    values = [value for _, value in points]
    series = values if exact else smooth(values)
    return next(value for value in reversed(series) if math.isfinite(value))
