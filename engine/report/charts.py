"""Line charts as inline SVG: readable ticks, raw and smoothed line, a tooltip a column."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 8, 24
MOST_COLUMNS = 200
MOST_TOOLTIPS = 80

Point = tuple[float, float]


def compact(value: float, digits: int = 3) -> str:
    """A number in few characters and at most `digits` digits: 1200 -> 1.2k, 0.0003 -> 3e-4."""
    size = abs(value)
    if not math.isfinite(value):
        return "not finite"
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        # 999.95 k would be printed as 1000k: the next suffix takes over there.
        if size >= limit * (0.9995 if limit > 1e3 else 1):
            return f"{value / limit:.{digits}g}{suffix}"
    if size and size < 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.{digits}g}"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten) inside [low, high], about `count` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((1, 2, 5, 10), key=lambda m: abs(math.log(m * power / rough))) * power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels with as many digits as it takes to tell neighbours apart: 10.32, 10.33, 10.34."""
    labels = []
    for digits in range(3, 10):
        labels = [compact(value, digits) for value in values]
        if len(set(labels)) == len(values):
            break
    return labels


def usual_range(values: Sequence[float]) -> Point:
    """Least and greatest finite value, unless a few spikes would flatten the rest.

    The inner 98 % of the values always fill at least a third of the range.
    """
    ranked = sorted(value for value in values if math.isfinite(value)) or [0.0]
    most_low, most_high = ranked[len(ranked) // 100], ranked[-1 - len(ranked) // 100]
    reach = (most_high - most_low) or math.inf
    return max(ranked[0], most_low - reach), min(ranked[-1], most_high + reach)


def smooth(values: Sequence[float], share: float = 0.04) -> list[float]:
    """Centred moving mean whose window is `share` of the series: no lag, unlike an average.

    Non-finite values are left out of the means and stay where they are; spikes are cut to
    `usual_range` first, so that one wild value does not lift the mean of its whole window.
    """
    reach = int(len(values) * share) // 2
    low, high = usual_range(values)
    sums, counts = [0.0], [0]
    for value in values:
        good = math.isfinite(value)
        sums.append(sums[-1] + (min(max(value, low), high) if good else 0.0))
        counts.append(counts[-1] + good)
    result = []
    for index, value in enumerate(values):
        start, stop = max(index - reach, 0), min(index + reach + 1, len(values))
        count = counts[stop] - counts[start]
        fine = math.isfinite(value) and count
        result.append((sums[stop] - sums[start]) / count if fine else math.nan)
    return result


def line_chart(
    points: Sequence[Point],
    *,
    label: str,
    show: Callable[[float], str] = compact,
    reference: tuple[float, str] | None = None,
    from_zero: bool = False,
    exact: bool = False,
    along: str = "step",
) -> Markup:
    """Draw one series over optimizer steps, or over what `along` names.

    Args:
        points: (step, value) in order of steps; a value that is not finite leaves a gap.
        label: what the values are, for tooltips and screen readers.
        show: prints a value with its unit.
        reference: a dashed level and its name, drawn when it lies in sight.
        from_zero: the axis starts at 0.
        exact: the values have no noise: one line, not smoothed.
        along: what the points' first numbers count, in the singular.

    Returns:
        An `<svg>` element; an empty one says that there is nothing to draw.
    """
    drawn = [value for _, value in points if math.isfinite(value)]
    if not drawn:
        return Markup('<p class="absent">No finite values.</p>')
    low, high = _value_range(drawn, from_zero, reference)
    first, last = points[0][0], points[-1][0]

    def across(step: float) -> float:
        part = (step - first) / (last - first) if last > first else 0.5
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def up(value: float) -> float:
        part = min(max((value - low) / (high - low), 0.0), 1.0)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    steps = [step for step, _ in points]
    values = [value for _, value in points]
    even = values if exact else smooth(values)
    smoothed = list(zip(steps, even, strict=True))
    title = (
        f"{label}: {show(drawn[0])} at {along} {first:g}, {show(drawn[-1])} at {along} {last:g}; "
        f"between {show(min(drawn))} and {show(max(drawn))}"
    )
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_axes(across, up, (first, last), (low, high)),
        *_reference_line(up, reference, (low, high)),
        "" if exact else f'<path class="raw" d="{_path(_extremes(points), across, up)}"/>',
        f'<path class="smooth" d="{_path(_thin(smoothed, MOST_COLUMNS), across, up)}"/>',
        *_tooltips(list(zip(points, even, strict=True)), across, up, label, show, along),
        "</svg>",
    ]
    return Markup("".join(parts))


def _value_range(
    drawn: list[float], from_zero: bool, reference: tuple[float, str] | None
) -> tuple[float, float]:
    """Ends of the axis, with the reference where it is near."""
    low, high = usual_range(drawn)
    if reference and low - (high - low) < reference[0] < high + (high - low):
        low, high = min(low, reference[0]), max(high, reference[0])
    if from_zero:
        low = min(low, 0.0)
    pad = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return (low if from_zero and low == 0 else low - pad), high + pad


def _axes(
    across: Callable[[float], float],
    up: Callable[[float], float],
    steps: tuple[float, float],
    values: tuple[float, float],
) -> list[str]:
    parts = []
    levels, moments = ticks(*values), ticks(*steps, count=5)
    for value, text in zip(levels, tick_labels(levels), strict=True):
        y = up(value)
        parts.append(f'<path class="grid-line" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{text}</text>')
    for step, text in zip(moments, tick_labels(moments), strict=True):
        x = across(step)
        anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">{text}</text>')
    return parts


def _reference_line(
    up: Callable[[float], float], reference: tuple[float, str] | None, values: tuple[float, float]
) -> list[str]:
    if reference is None or not values[0] < reference[0] < values[1]:
        return []
    y = up(reference[0])
    return [
        f'<path class="reference" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>',
        f'<text class="reference" x="{WIDTH - RIGHT}" y="{y - 4:.1f}" text-anchor="end">'
        f"{escape(reference[1])}</text>",
    ]


def _thin(points: Sequence[Point], most: int) -> list[Point]:
    """Every k-th point and the last one."""
    stride = math.ceil(len(points) / most)
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _extremes(points: Sequence[Point]) -> list[Point]:
    """Lowest and highest point a column, in order, so that no spike is lost by thinning."""
    if len(points) <= 2 * MOST_COLUMNS:
        return list(points)
    stride = math.ceil(len(points) / MOST_COLUMNS)
    kept = []
    for start in range(0, len(points), stride):
        column = points[start : start + stride]
        odd = [point for point in column if not math.isfinite(point[1])]
        fine = [point for point in column if math.isfinite(point[1])]
        ends = {min(fine, key=lambda p: p[1]), max(fine, key=lambda p: p[1])} if fine else set()
        kept.extend(sorted([*ends, *odd[:1]]))
    return kept


def _path(
    points: Sequence[Point], across: Callable[[float], float], up: Callable[[float], float]
) -> str:
    """SVG path data; a point that is not finite ends one line and the next begins a new one."""
    if len(points) == 1 and math.isfinite(points[0][1]):
        return f"M{across(points[0][0]):.1f} {up(points[0][1]):.1f}h0.1"
    words, open_line = [], False
    for (step, value), following in pairwise([*points, (math.inf, math.nan)]):
        if not math.isfinite(value):
            open_line = False
            continue
        words.append(f"{'L' if open_line else 'M'}{across(step):.1f} {up(value):.1f}")
        if not open_line and not math.isfinite(following[1]):
            words.append("h0.1")
        open_line = True
    return "".join(words)


def _tooltips(
    rows: list[tuple[Point, float]],
    across: Callable[[float], float],
    up: Callable[[float], float],
    label: str,
    show: Callable[[float], str],
    along: str,
) -> list[str]:
    """Invisible columns that show a dot and a title under the pointer."""
    shown = rows[:: math.ceil(len(rows) / MOST_TOOLTIPS)]
    places = [across(step) for (step, _), _ in shown]
    edges = [LEFT, *((a + b) / 2 for a, b in pairwise(places)), WIDTH - RIGHT]
    parts = []
    for ((step, value), even), x, (left, right) in zip(shown, places, pairwise(edges), strict=True):
        text = f"{along} {step:g}\n{label} {show(value)}"
        dot = ""
        if math.isfinite(even):
            text += f"\nsmoothed {show(even)}" if show(even) != show(value) else ""
            dot = f'<circle cx="{x:.1f}" cy="{up(even):.1f}" r="3.5"/>'
        parts.append(
            f'<g class="column"><title>{escape(text)}</title>'
            f'<rect x="{left:.1f}" y="{TOP}" width="{right - left:.1f}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>{dot}</g>'
        )
    return parts
