"""Headline and facts of the page, as plain values for the templates."""

import math
from typing import Any

from engine.report.charts import compact
from engine.report.run_folder import RunFolder, as_list, clip, count_of, last_value, number
from engine.report.scores import Recall, directions, meaning, percent, times


def headline(run: RunFolder) -> dict[str, Any]:
    """Retrieval beside chance, and the run in a handful of numbers."""
    found = directions(run.retrieval)
    count = count_of(run.retrieval)
    sentence = meaning(found, count)
    steps, pairs = last_value(run, "step"), last_value(run, "samples_seen")
    if sentence is None and steps:
        seen = f" over {pairs:,.0f} picture-caption pairs" if pairs else ""
        how = "Fine-tuned" if run.setting("task") else "Pretrained"
        sentence = f"{how} for {steps:,.0f} steps{seen}."
    best = next((r for d in found for r in d.recalls if r.cutoff == 5 and r.chance), None)
    return {
        "sentence": sentence or "A BLIP run",
        "comparison": best and _comparison(best),
        "directions": found,
        "count": count,
        "facts": _facts(run, steps, pairs),
    }


def _comparison(recall: Recall) -> str:
    """How far from guessing, in words that fit a model that has learned nothing, too."""
    ratio = recall.times_chance or 0.0
    better = f"{times(ratio)} times better" if ratio >= 1.5 else "no better"
    if 1.1 < ratio < 1.5:
        better = "hardly better"
    return f"Chance: {percent(recall.chance or 0.0)}. That is {better} than guessing."


def _facts(run: RunFolder, steps: float | None, pairs: float | None) -> list[tuple[str, str]]:
    """The run in a handful of numbers, each with its unit."""
    seconds = _training_seconds(run.metrics)
    rate = pairs / seconds if pairs and seconds else None
    waiting = _mean(run, "data_wait_fraction")
    mfu = _mean(run, "mfu")
    preset = run.setting("model", "preset")
    facts = [
        ("model", clip(preset, 40) if isinstance(preset, str) else None),
        ("optimizer steps", steps and f"{steps:,.0f}"),
        ("pairs seen", pairs and compact(pairs)),
        ("training time", seconds and duration(seconds)),
        ("throughput", rate and f"{compact(rate)} pairs/s"),
        ("waiting for data", None if waiting is None else percent(waiting)),
        ("of peak FLOP/s", mfu and percent(mfu)),
    ]
    return [(name, value) for name, value in facts if value]


def data_facts(run: RunFolder) -> dict[str, Any]:
    """Where the pairs came from and what was wrong with them."""
    pairs = (run.collection or {}).get("pairs")
    pairs = pairs if isinstance(pairs, dict) else {}
    bad = last_value(run, "bad_samples")
    rows = [
        (name, f"{value:,.0f}")
        for key, name in (("train", "training pairs"), ("heldout", "held-out pairs"))
        if (value := number(pairs.get(key))) is not None and math.isfinite(value)
    ]
    for key, name in (("train", "trained on"), ("eval", "evaluated on")):
        place = run.setting("data", key)
        places = [part for part in as_list(place) or [place] if isinstance(part, str) and part]
        if places:
            rows.append((name, clip(", ".join(places))))
    left_out = number((run.retrieval or run.caption or {}).get("bad_samples"))
    if left_out:
        rows.append(("held-out pairs left out as bad", f"{left_out:,.0f}"))
    return {
        "rows": rows,
        "bad": None if bad is None else f"{bad:,.0f}",
        "reasons": _reasons(run),
    }


def _reasons(run: RunFolder) -> list[tuple[str, str]]:
    """Bad samples by reason, most frequent first, as the newest checkpoint counts them."""
    given = (run.state or {}).get("bad_samples")
    pairs = given.items() if isinstance(given, dict) else ()
    counts = [(clip(reason, 80), count) for reason, n in pairs if (count := number(n))]
    return [(reason, f"{n:,.0f}") for reason, n in sorted(counts, key=lambda c: -c[1])[:20]]


def duration(seconds: float) -> str:
    """Seconds as a person says them: 45 s, 8 min, 3 h 20 min, 2 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def _mean(run: RunFolder, key: str) -> float | None:
    values = [v for row in run.metrics if (v := number(row.get(key))) is not None]
    finite = [v for v in values if math.isfinite(v)]
    return sum(finite) / len(finite) if finite else None


def _training_seconds(metrics: list[dict[str, Any]]) -> float | None:
    """Pairs over pairs a second, summed over the logged intervals."""
    total, before = 0.0, 0.0
    for row in metrics:
        seen, rate = number(row.get("samples_seen")), number(row.get("images_per_second"))
        if seen is None or not rate or not math.isfinite(seen + rate) or rate <= 0:
            continue
        total += max(seen - before, 0.0) / rate
        before = seen
    return total if 0 < total < math.inf else None
