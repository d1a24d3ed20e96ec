"""Retrieval figures beside chance, and what they mean in one sentence."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

from engine.report.run_folder import number

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Recall:
    """One bar: the share of queries whose right answer is among the first `cutoff`.

    `contrastive` is the same share before matching re-ranks the shortlist.
    """

    cutoff: int
    value: float
    chance: float | None
    contrastive: float | None = None

    @property
    def times_chance(self) -> float | None:
        """How many times better than drawing at random."""
        return self.value / self.chance if self.chance else None


@dataclass(frozen=True)
class Direction:
    """Retrieval in one direction."""

    title: str
    question: str
    recalls: list[Recall] = field(default_factory=list)


def directions(results: dict[str, Any] | None) -> list[Direction]:
    """Both directions of retrieval, text to image first; a direction without figures is left out.

    Args:
        results: `results.json` of the retrieval task; shares lie in [0, 1].
    """
    values, chances = _figures(results, "metrics"), _figures(results, "chance")
    contrastive = _figures(results, "metrics", "_without_matching")
    count = number((results or {}).get("count"))
    found = []
    for name, title, question in (
        ("text_to_image", "Caption → picture", "Given a caption, is the right picture among"),
        ("image_to_text", "Picture → caption", "Given a picture, is the right caption among"),
    ):
        recalls = []
        for cutoff in CUTOFFS:
            value = values.get((name, cutoff))
            if value is None:
                continue
            chance = chances.get((name, cutoff))
            if chance is None and count and count >= 1 and math.isfinite(count):
                chance = min(1.0, cutoff / count)
            recalls.append(Recall(cutoff, value, chance, contrastive.get((name, cutoff))))
        if recalls:
            found.append(Direction(title, question, recalls))
    return found


def before_and_after(
    before: dict[str, Any] | None, after: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """Recalls of two evaluations side by side, a group a direction; none without both."""
    later = {direction.title: direction for direction in directions(after)}
    groups = []
    for direction in directions(before):
        rows = []
        recalls = later[direction.title].recalls if direction.title in later else []
        after_by_cutoff = {recall.cutoff: recall for recall in recalls}
        for recall in direction.recalls:
            if recall.cutoff not in after_by_cutoff:
                continue
            value = after_by_cutoff[recall.cutoff].value
            points = 100 * (value - recall.value)
            rows.append(
                {
                    "cutoff": recall.cutoff,
                    "before": percent(recall.value),
                    "after": percent(value),
                    "change": f"{points:+.1f} points".replace("-", "\u2212"),
                    "kind": "up" if points >= 0.05 else "down" if points <= -0.05 else "quiet",
                    "chance": "" if recall.chance is None else percent(recall.chance),
                }
            )
        if rows:
            groups.append({"title": direction.title, "rows": rows})
    return groups


def steps_of(results: dict[str, Any] | None) -> str:
    """How many steps the model of an evaluation was trained for, "" where it does not say."""
    steps = number((results or {}).get("step"))
    return f"{steps:,.0f}" if steps and math.isfinite(steps) else ""


def _figures(
    results: dict[str, Any] | None, part: str, ending: str = ""
) -> dict[tuple[str, int], float]:
    """Recalls by direction and cutoff, from names like `text_to_image_r5` and an ending."""
    given = (results or {}).get(part)
    found = {}
    for name, raw in given.items() if isinstance(given, dict) else ():
        match = re.fullmatch(rf"(text_to_image|image_to_text)_r(\d{{1,3}}){ending}", str(name))
        value = number(raw)
        if match and value is not None and 0 <= value <= 1:
            found[match[1], int(match[2])] = value
    return found


def percent(share: float) -> str:
    """A share as per cent in two digits, halves rounded up: 0.25 %, 1.3 %, 62 %."""
    value = 100 * share
    digits = 0 if value >= 9.95 or value == 0 else 1 if value >= 0.995 else 2
    return f"{math.floor(value * 10**digits + 0.5 + 1e-9) / 10**digits:.{digits}f} %"


def times(ratio: float) -> str:
    """A ratio in two digits: 1.4, 50, 320."""
    return f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}"


def meaning(found: list[Direction], count: int | None) -> str | None:
    """The headline: how often the right picture is among the first five."""
    recall = next(
        (r for d in found if d.title.startswith("Caption") for r in d.recalls if r.cutoff == 5),
        None,
    )
    if recall is None:
        return None
    among = f"among {count:,} pictures it never saw" if count else "among pictures it never saw"
    return (
        f"Given a caption, the model has the right picture {among} "
        f"in its first five {percent(recall.value)} of the time."
    )


def summary(found: list[Direction]) -> list[str]:
    """The figures for a terminal, a line a direction."""
    return [
        f"{direction.title.replace('→', 'to')}: "
        + ", ".join(
            f"R@{recall.cutoff} {percent(recall.value)}"
            + (f" (chance {percent(recall.chance)})" if recall.chance is not None else "")
            for recall in direction.recalls
        )
        for direction in found
    ]
