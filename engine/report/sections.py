"""Headline, curves and facts of the page, as plain values for the templates."""

import math
from typing import Any

from engine.report.charts import compact, line_chart, smooth
from engine.report.run_folder import RunFolder, as_list, clip, count_of, number
from engine.report.scores import directions, meaning, percent, times

# Entropy of one matching pair in three, as matching is trained: what guessing by frequency costs.
MATCHING_BY_CHANCE = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3


def headline(run: RunFolder) -> dict[str, Any]:
    """Retrieval beside chance, and the run in a handful of numbers."""
    found = directions(run.retrieval)
    count = count_of(run.retrieval)
    sentence = meaning(found, count)
    steps, pairs = _last(run, "step"), _last(run, "samples_seen")
    if sentence is None and steps:
        seen = f" over {pairs:,.0f} picture-caption pairs" if pairs else ""
        sentence = f"Pretrained for {steps:,.0f} steps{seen}."
    best = next((r for d in found for r in d.recalls if r.cutoff == 5 and r.times_chance), None)
    return {
        "sentence": sentence or "A BLIP run",
        "comparison": best
        and f"Chance: {percent(best.chance)}. "
        f"That is {times(best.times_chance)} times better than guessing.",
        "directions": found,
        "count": count,
        "facts": _facts(run, steps, pairs),
    }


def _facts(run: RunFolder, steps: float | None, pairs: float | None) -> list[tuple[str, str]]:
    """The run in a handful of numbers, each with its unit."""
    seconds = _training_seconds(run.metrics)
    rate = _mean(run, "images_per_second")
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


def curves(run: RunFolder) -> dict[str, Any]:
    """Losses and settings over the steps, a small chart each."""
    charts = []
    for key, title, unit, explanation, more in (
        ("loss_itc", "Contrastive loss", "", "ITC: tells pictures and captions apart", {}),
        (
            "loss_itm",
            "Matching loss",
            "",
            "ITM: does this caption belong to this picture?",
            {"reference": (MATCHING_BY_CHANCE, "guessing")},
        ),
        ("loss_lm", "Captioning loss", "", "LM: predicts the next word of the caption", {}),
        ("images_per_second", "Throughput", " pairs/s", "over all ranks", {"from_zero": True}),
        (
            "lr",
            "Learning rate",
            "",
            "schedule of the optimizer",
            {"from_zero": True, "exact": True},
        ),
        ("temperature", "Temperature", "", "learned scale of the contrastive loss", {}),
    ):
        points = [
            (number(row["step"]) or 0.0, value)
            for row in run.metrics
            if (value := number(row.get(key))) is not None
        ]
        if points:
            charts.append(
                {
                    "key": key,
                    "title": title,
                    "last": compact(_end([v for _, v in points], more.get("exact", False))),
                    "unit": unit,
                    "explanation": explanation,
                    "svg": line_chart(
                        points, label=title, show=lambda v, unit=unit: compact(v) + unit, **more
                    ),
                }
            )
    return {"charts": charts, "skipped": _last(run, "skipped_steps")}


def _end(values: list[float], exact: bool) -> float:
    """The last finite value, of the smoothed series unless the values have no noise."""
    series = values if exact else smooth(values)
    return next((value for value in reversed(series) if math.isfinite(value)), math.nan)


def data_facts(run: RunFolder) -> dict[str, Any]:
    """Where the pairs came from and what was wrong with them."""
    pairs = (run.collection or {}).get("pairs")
    pairs = pairs if isinstance(pairs, dict) else {}
    bad = next((row["bad_samples"] for row in reversed(run.metrics) if "bad_samples" in row), None)
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
    total, reasons = _bad(bad)
    return {"rows": rows, "bad": total, "reasons": reasons, "attribution": run.attribution}


def _bad(value: Any) -> tuple[str | None, list[tuple[str, str]]]:
    """Bad samples in all and by reason, most frequent first, from a count or counts by reason."""
    if isinstance(value, dict):
        counts = {clip(k, 80): n for k, v in value.items() if (n := number(v)) and n > 0}
        ranked = sorted(counts.items(), key=lambda item: -item[1])
        return f"{sum(counts.values()):,.0f}", [(k, f"{n:,.0f}") for k, n in ranked[:20]]
    total = number(value)
    return (None if total is None else f"{total:,.0f}"), []


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


def _last(run: RunFolder, key: str) -> float | None:
    values = [number(row.get(key)) for row in run.metrics]
    return next((v for v in reversed(values) if v is not None and math.isfinite(v)), None)


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
    return total or None
