"""The arms as bars with their spread and every seed's value, as PNG, drawn with Pillow."""

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from engine.ablation.arms import ARMS, CORE
from engine.ablation.results import pairs_of
from engine.report.charts import ticks

SCALE = 2
WIDTH, LABEL, RIGHT, ROW, TOP, BOTTOM = 900, 150, 180, 30, 64, 34
INK, FAINT, FIRST, OTHER, DOT = "#202428", "#c8ccd0", "#2f6fb2", "#8fb0d0", "#c2603a"


class _Canvas:
    """A white picture in points; twice as many pixels."""

    def __init__(self, height: float) -> None:
        self.image = Image.new("RGB", (WIDTH * SCALE, round(height * SCALE)), "white")
        self._draw = ImageDraw.Draw(self.image)

    def text(self, x: float, y: float, text: str, anchor: str = "lm", size: int = 13) -> None:
        """A line of text."""
        font = ImageFont.load_default(size * SCALE)
        self._draw.text((x * SCALE, y * SCALE), text, INK, font, anchor=anchor)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """A filled rectangle."""
        self._draw.rectangle((x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE), colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        """A thin line."""
        self._draw.line((x0 * SCALE, y0 * SCALE, x1 * SCALE, y1 * SCALE), colour, SCALE)

    def dot(self, x: float, y: float, colour: str, radius: float = 3) -> None:
        """A filled circle."""
        ends = (x - radius, y - radius, x + radius, y + radius)
        self._draw.ellipse(tuple(SCALE * end for end in ends), colour)


def draw(results: dict[str, Any], path: Path) -> None:
    """R@1 of every arm: the bar is the mean, the whisker one deviation, dots are seeds.

    Args:
        results: as `results.json` holds them.
        path: of the PNG.
    """
    arms = results["arms"]
    if not arms:
        return
    canvas = _Canvas(TOP + ROW * len(arms) + BOTTOM)
    canvas.text(12, 20, "Zero-shot retrieval R@1 in %, mean of both directions", size=17)
    auc = results["filter_auc"]
    said = f"{pairs_of(results)}, seeds {results['seeds']}"
    said += f", filter AUC {auc['mean']:.3f}" if auc else ""
    canvas.text(12, 44, said)
    most = max(_top(arm["retrieval_r1"]) for arm in arms.values()) or 1.0
    bottom = TOP + ROW * len(arms)

    def place(value: float) -> float:
        return LABEL + (WIDTH - LABEL - RIGHT) * value / most

    for tick in ticks(0.0, 100 * most, 6):
        canvas.line(place(tick / 100), TOP, place(tick / 100), bottom, FAINT)
        canvas.text(place(tick / 100), bottom + 14, f"{tick:g}", "mm", 12)
    for number, (name, arm) in enumerate(arms.items()):
        y, found = TOP + ROW * (number + 0.5), arm["retrieval_r1"]
        mean, std = found["mean"], found["std"] or 0.0
        canvas.text(LABEL - 8, y, name, "rm")
        canvas.box(LABEL, y - 9, place(mean), y + 9, FIRST if name in CORE else OTHER)
        low, high = place(max(mean - std, 0.0)), place(mean + std)
        canvas.line(low, y, high, y, INK)
        for end in (low, high):
            canvas.line(end, y - 5, end, y + 5, INK)
        for value in found["values"]:
            canvas.dot(place(value), y, DOT)
        said = f"{100 * mean:.1f}" + ("" if found["std"] is None else f" ± {100 * std:.1f}")
        # Beside bars that matching has re-ranked.
        said += " by contrast" if ARMS[name].contrastive else ""
        canvas.text(max(high, place(max(found["values"]))) + 8, y, said)
    canvas.image.save(path, "PNG", optimize=True)


def _top(found: dict[str, Any]) -> float:
    return max(*found["values"], found["mean"] + (found["std"] or 0.0))
