"""The rounds of a bootstrap side by side, from its `bootstrap.json`."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from engine.report.run_folder import as_list, clip, number, read_object
from engine.report.scores import percent

FILE = "bootstrap.json"
MOST_ROUNDS = 24
WIDTH, HEIGHT, BASE, TOP = 360, 150, 124, 24


@dataclass(frozen=True)
class Figure:
    """One figure of a round's guard, a share."""

    key: str
    title: str
    explanation: str


FIGURES = (
    Figure(
        "retrieval_r1",
        "Retrieval R@1",
        "held-out captions and pictures that find each other first, the mean of both",
    ),
    Figure("kept_share", "Texts kept", "of all web and synthetic texts"),
    Figure("filter_precision", "Filter precision", "of what the filter keeps, what is right"),
    Figure("filter_recall", "Filter recall", "of what is right, what the filter keeps"),
    Figure("distinct_1", "Distinct words", "of all words of the synthetic captions"),
    Figure("distinct_2", "Distinct word pairs", "of all neighbours in the synthetic captions"),
    Figure(
        "unseen_words", "Unseen words", "of all words of the synthetic captions, in no clean one"
    ),
    Figure("commonest_share", "Commonest caption", "synthetic captions that are the same text"),
)


@dataclass(frozen=True)
class Round:
    """One round as it was written down; figures that are missing are None, and so is a verdict.

    `at_work` names the stage that runs in a round without one, or "".
    """

    number: int
    accepted: bool | None
    best: bool
    reasons: list[str]
    guard: dict[str, float | None]
    folders: dict[str, Path] = field(default_factory=dict)
    at_work: str = ""


def read_rounds(root: Path, notes: list[str]) -> list[Round]:
    """The rounds of a folder, none where it holds no bootstrap.

    Args:
        root: folder, from which the paths of the file go on.
        notes: takes a line about what cannot be read.
    """
    found = read_object(root / FILE, notes)
    best = number((found or {}).get("best_round"))
    rounds = []
    for place, given in enumerate(as_list((found or {}).get("rounds"))):
        if not isinstance(given, dict):
            continue
        which = number(given.get("round"))
        which = place if which is None or not math.isfinite(which) else int(which)
        guard, folders, stages = (
            given.get(name) if isinstance(given.get(name), dict) else {}
            for name in ("guard", "folders", "stages")
        )
        rounds.append(
            Round(
                number=which,
                accepted=given["accepted"] if given.get("accepted") in (True, False) else None,
                best=best == which,
                reasons=[_plain(reason) for reason in as_list(given.get("reasons"))[:8]],
                guard={figure.key: _finite(guard.get(figure.key)) for figure in FIGURES},
                folders={
                    str(name): _place(root, path)
                    for name, path in folders.items()
                    if isinstance(path, str) and path and "\0" not in path
                },
                at_work=next((clip(n, 40) for n, how in stages.items() if how == "running"), ""),
            )
        )
    return rounds


def rounds_view(rounds: list[Round]) -> dict[str, Any]:
    """A row a figure, a chart a figure that several rounds have, and what became of each round.

    Of more than 24 rounds the newest and the best are shown; all are counted.
    """
    newest = rounds[-MOST_ROUNDS:]
    shown = [one for one in rounds[:-MOST_ROUNDS] if one.best] + newest
    rows, charts = [], []
    for figure in FIGURES:
        values = [one.guard[figure.key] for one in shown]
        if all(value is None for value in values):
            continue
        rows.append((figure, ["–" if value is None else percent(value) for value in values]))
        # A bar alone says no more than the table.
        if sum(value is not None for value in values) > 1:
            charts.append({"figure": figure, "svg": _bars(shown, figure, percent)})
    view = {"rounds": shown, "rows": rows, "charts": charts, "sentence": _sentence(rounds)}
    return view | {"count": len(rounds), "newest": len(newest)}


def _sentence(rounds: list[Round]) -> str:
    made = [one for one in rounds if one.number and one.accepted is not None]
    accepted = sum(bool(one.accepted) for one in made)
    best = next((one for one in rounds if one.best), None)
    words = f"{len(made)} round{'s' * (len(made) != 1)} of cleaning, {accepted} accepted"
    words = "No round of cleaning is finished yet" if not made else words
    if best is None:
        return f"{words}."
    base = "the pretraining before all cleaning" if best.number == 0 else f"round {best.number}"
    return f"{words}; the best is {base}."


def _plain(reason: Any) -> str:
    """A reason with the figures' titles for their names; names of settings stay."""
    text = clip(reason)
    for figure in FIGURES:
        text = re.sub(
            rf"\b(?<!guard\.){figure.key}\b", figure.title.lower().replace("r@1", "R@1"), text
        )
    return text


def _finite(value: Any) -> float | None:
    found = number(value)
    return found if found is not None and math.isfinite(found) else None


def _place(root: Path, path: str) -> Path:
    """From the root on, wherever the report is made from; where it cannot be looked, nowhere."""
    place = root / path
    try:
        place.exists()
    except OSError:
        return root / "missing"
    return place


def _bars(rounds: list[Round], figure: Figure, show: Callable[[float], str]) -> Markup:
    """A bar a round; one that was not accepted is hollow."""
    values = [one.guard[figure.key] for one in rounds]
    most = max((value for value in values if value is not None), default=0.0)
    most = most if most > 0 else 1.0
    slot = WIDTH / len(rounds)
    wide = min(slot * 0.62, 64.0)
    said = "; ".join(
        f"round {one.number}: {'no figure' if value is None else show(value)}"
        for one, value in zip(rounds, values, strict=True)
    )
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{figure.title}: {said}")}">',
        f'<path class="grid-line" d="M0 {BASE}H{WIDTH}"/>',
    ]
    for place, (one, value) in enumerate(zip(rounds, values, strict=True)):
        middle = slot * (place + 0.5)
        kind = "best" if one.best else "rejected" if one.accepted is False else "accepted"
        if value is not None:
            height = max(value / most, 0.0) * (BASE - TOP)
            parts.append(
                f'<rect class="{kind}" x="{middle - wide / 2:.1f}" y="{BASE - height:.1f}" '
                f'width="{wide:.1f}" height="{height:.1f}" rx="3"/>'
            )
            if slot > 36:
                parts.append(
                    f'<text x="{middle:.1f}" y="{BASE - height - 6:.1f}" text-anchor="middle">'
                    f"{show(value)}</text>"
                )
        parts.append(
            f'<text x="{middle:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{one.number}</text>'
        )
    parts.append("</svg>")
    return Markup("".join(parts))
