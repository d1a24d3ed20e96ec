"""Bars as PNG, drawn with Pillow: how many times faster, and seconds side by side."""

import math
from itertools import groupby
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from bench.figures import figure_of

SCALE = 2
WIDTH, LABEL, RIGHT, ROW, TOP, BOTTOM = 900, 340, 130, 24, 46, 28
INK, FAINT, BAR, SLOW = "#202428", "#c8ccd0", "#2f6fb2", "#c2603a"


class Canvas:
    """A white picture in points; twice as many pixels."""

    def __init__(self, height: float) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, round(height * SCALE)), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, anchor: str = "lm", size: int = 12) -> None:
        """A line of text."""
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), text, INK, font, anchor=anchor)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """A filled rectangle."""
        left, right = sorted((x0 * SCALE, x1 * SCALE))
        self._draw.rectangle((left, y0 * SCALE, right, y1 * SCALE), colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """A thin line."""
        points = (x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE)
        self._draw.line(points, colour, SCALE)


def plot_ratios(results: dict[str, Any], path: Path) -> None:
    """Every ratio as a bar from 1 on a logarithmic axis, with its quartiles."""
    ratios = {n: v for n, v in results["figures"].items() if figure_of(n).unit == "x"}
    if not ratios:
        return
    spread = results["spread"]
    ends = [spread[name][end] for name in ratios for end in ("q1", "q3")]
    low, high = math.log2(min(0.8, *ends)), math.log2(max(2.0, *ends))
    canvas = Canvas(TOP + ROW * len(ratios) + BOTTOM)
    canvas.text(12, 20, f"Times faster, or less: {_where(results)}", size=15)
    across = WIDTH - LABEL - RIGHT

    def place(value: float) -> float:
        return LABEL + across * (math.log2(value) - low) / (high - low)

    bottom = TOP + ROW * len(ratios)
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = place(2.0**power)
        canvas.line(x, TOP, x, bottom, INK if power == 0 else FAINT)
        canvas.text(x, bottom + 12, f"{2.0**power:g}", "mm", 11)
    for number, (name, value) in enumerate(ratios.items()):
        y = TOP + ROW * (number + 0.5)
        canvas.text(LABEL - 8, y, name, "rm")
        canvas.box(place(1.0), y - 7, place(value), y + 7, BAR if value >= 1 else SLOW)
        q1, q3 = place(spread[name]["q1"]), place(spread[name]["q3"])
        canvas.line(q1, y, q3, y, INK)
        for end in (q1, q3):
            canvas.line(end, y - 4, end, y + 4, INK)
        canvas.text(max(place(value), q3, place(1.0)) + 6, y, figure_of(name).shown(value))
    canvas.image.save(path, optimize=True)


def plot_times(results: dict[str, Any], path: Path) -> None:
    """Seconds of each side, comparison by comparison, each on an axis of its own."""
    groups = [(name, list(rows)) for name, rows in groupby(results["times"], _comparison)]
    if not groups:
        return
    lines = sum(len(rows) + 1.5 for _, rows in groups)
    canvas = Canvas(TOP + ROW * lines + BOTTOM)
    canvas.text(12, 20, f"Time, median and quartiles: {_where(results)}", size=15)
    y = TOP + ROW / 2
    for name, rows in groups:
        canvas.text(12, y, name, size=13)
        longest = max(row["q3"] for row in rows)
        across = WIDTH - LABEL - RIGHT
        for row in rows:
            y += ROW
            x, q1, q3 = (LABEL + across * row[key] / longest for key in ("median", "q1", "q3"))
            canvas.text(LABEL - 8, y, row["side"], "rm")
            canvas.box(LABEL, y - 7, x, y + 7, BAR if "ours" in row["side"] else SLOW)
            canvas.line(q1, y, q3, y, INK)
            canvas.text(max(x, q3) + 6, y, _duration(row["median"]))
        y += 1.5 * ROW
    canvas.image.save(path, optimize=True)


def _comparison(row: dict[str, Any]) -> str:
    return row["comparison"]


def _duration(seconds: float) -> str:
    for limit, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= limit:
            return f"{seconds / limit:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _where(results: dict[str, Any]) -> str:
    facts = results["machine"]
    hardware = facts.get("gpu") or f"{facts['cpu']}, {facts['cores']} cores"
    return f"{hardware}, {results['date']}, {results['commit']}"
