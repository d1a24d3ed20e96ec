"""Facts of a captioning-and-filtering run, as plain values for the templates."""

import json
import math
import shlex
from collections import Counter, defaultdict
from typing import Any

from engine.report.capfilt_folder import CapFiltFolder
from engine.report.capfilt_samples import Tally
from engine.report.charts import compact, line_chart
from engine.report.run_folder import clip, number
from engine.report.scores import percent
from engine.report.sections import duration

KEPT = "matched"
REASONS = {
    "unmatched": "matching score below the threshold",
    "dissimilar": "similarity below the threshold",
    "not_words": "pieces of words, or the same words over and over",
    "duplicate": "word for word an earlier text of the picture",
    "not_best_synthetic": "not among the best synthetic texts",
    "not_among_best": "not among the best texts",
    "empty_caption": "empty",
    "bad_text": "no text",
}
MOST_REASONS = 20
LONGEST_TRAIN = 1000
FEWEST_TIMES = 8
WINDOWS = 40


def headline(folder: CapFiltFolder, tally: Tally) -> dict[str, Any]:
    """What came out, in a sentence and a handful of numbers."""
    counted = [(c, kind) for c, kind in ((tally.web, "web"), (tally.synthetic, "synthetic")) if c]
    totals = [f"{counts.total():,} {kind} captions" for counts, kind in counted]
    shares = [percent(counts[KEPT] / counts.total()) for counts, _ in counted]
    parts = [f"{share} of {total}" for share, total in zip(shares, totals, strict=True)]
    kept = f"{tally.kept_pictures:,} of {tally.pictures:,} pictures keep a caption."
    sentence = f"The filter kept {' and '.join(parts)}." if parts else "No text was scored."
    if parts and not tally.kept_pictures:
        sentence = f"The filter kept none of {' and '.join(totals)}."
        kept = (
            "Either the filter has learned too little to tell a match (tune it longer, or on more "
            "clean pairs), or the threshold is too high: drag it below to see what would pass."
        )
    return {
        "sentence": sentence,
        "comparison": f"{_rule(folder)} {kept}",
        "facts": _facts(folder, tally),
    }


def reasons(folder: CapFiltFolder, tally: Tally) -> dict[str, Any]:
    """Texts of both kinds by reason, the most frequent first, and what could not be used."""
    totals = (tally.web.total(), tally.synthetic.total())
    names = sorted(tally.web.keys() | tally.synthetic.keys(), key=lambda name: name != KEPT)
    names.sort(key=lambda n: (n != KEPT, -(tally.web[n] + tally.synthetic[n]), n))
    rows = [
        {
            "title": "kept" if name == KEPT else REASONS.get(name, clip(name, 80)),
            "kept": name == KEPT,
            "cells": [
                _cell(counts[name], total)
                for counts, total in zip((tally.web, tally.synthetic), totals, strict=True)
            ],
        }
        for name in names[:MOST_REASONS]
    ]
    bad = sorted(folder.bad.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_REASONS]
    return {
        "rows": rows,
        "bad": [(clip(reason, 80).replace("_", " "), f"{count:,}") for reason, count in bad],
        "bad_count": f"{sum(folder.bad.values()):,}",
        "unread": list(folder.unread.items())[:MOST_REASONS],
    }


def throughput(folder: CapFiltFolder) -> dict[str, Any] | None:
    """Pictures a second while the run was at work, all processes together; None if not recorded."""
    times = sorted(folder.times, key=lambda row: row["begun"])
    pictures = sum(row["pictures"] for row in times)
    busy = _union([(row["begun"], row["ended"]) for row in times])
    seconds = sum(end - begin for begin, end in busy)
    if not pictures or seconds <= 0:
        return None
    # A process puts a shard down beside the next one's scoring, so its own times overlap.
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in times:
        spans[clip(row.get("process"), 80)].append((row["begun"], row["ended"]))
    work = sum(end - begin for own in spans.values() for begin, end in _union(own))
    return {
        "rate": f"{compact(pictures / seconds)} pictures/s",
        "rate_each": f"{compact(pictures / work)} pictures/s",
        "processes": f"{len(spans):,}",
        "time": duration(seconds),
        "stretches": len(busy),
        "svg": _rate_chart(times) if len(times) >= FEWEST_TIMES else None,
    }


def command(folder: CapFiltFolder) -> list[str]:
    """What applies another rule to this run's scores, up to the thresholds; a part a line."""
    data, rule = folder.train, folder.rule
    parts = [["python", "launch/capfilt.py"], ["--from_table", str(folder.root)]]
    train = [["--data.train", data[0] if len(data) == 1 else json.dumps(data)]]
    if len(train[0][1]) > LONGEST_TRAIN:
        # Nobody copies that: the run's own settings name its shards.
        train = [["--config", str(folder.root / "config.yaml")]]
        train += [[f"--{key}", "null"] for key in ("captioner", "filter", "publish_to")]
    parts += [*train, ["--output_dir", f"{folder.root}_again"]]
    for name in ("best_synthetic", "at_most"):
        if (value := getattr(rule, name)) is not None:
            parts.append([f"--rule.{name}", str(value)])
    parts += [["--rule.rank_by", "itc"]] * (rule.rank_by == "itc")
    parts += [["--rule.drop_duplicates", "true"]] * rule.drop_duplicates
    parts += [["--rule.drop_not_words", "false"]] * (not rule.drop_not_words)
    return [clip(shlex.join(words), 2 * LONGEST_TRAIN) for words in parts]


def limits(folder: CapFiltFolder) -> str:
    """The rule's limits in words, "" where it has none."""
    rule, parts = folder.rule, []
    score = "similarity" if rule.rank_by == "itc" else "matching score"
    if rule.best_synthetic is not None:
        parts.append(f"of a picture's synthetic texts the best {rule.best_synthetic} by {score}")
    if rule.at_most is not None:
        parts.append(f"of all its texts the best {rule.at_most} by {score}")
    return " and ".join(parts)


def _rule(folder: CapFiltFolder) -> str:
    rule = folder.rule
    words = "A text stays when the filter holds it for a match with a probability of at least "
    words += f"{rule.itm_threshold:g}"
    if rule.itc_threshold is not None:
        words += f" and its similarity to the picture is at least {rule.itc_threshold:g}"
    if limits(folder):
        words += f"; of those that pass, {limits(folder)} stay"
    return f"{words}."


def _facts(folder: CapFiltFolder, tally: Tally) -> list[tuple[str, str]]:
    speed = throughput(folder)
    pairs = number(folder.summary.get("pairs"))
    read = pairs if pairs and math.isfinite(pairs) else tally.pictures + sum(folder.bad.values())
    facts = [
        ("pictures read", f"{read:,.0f}"),
        ("keep a caption", percent(tally.kept_pictures / max(tally.pictures, 1))),
        ("shards", f"{len(folder.tables):,}"),
        ("bad samples", f"{sum(folder.bad.values()):,}"),
        ("throughput", speed and speed["rate"]),
        ("time at work", speed and speed["time"]),
    ]
    return [(name, value) for name, value in facts if value]


def _cell(count: int, total: int) -> dict[str, Any]:
    share = count / total if total else 0.0
    return {"count": f"{count:,}", "share": percent(share) if total else "", "part": share}


def _union(spans: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Sorted spans, those that touch joined."""
    joined: list[tuple[float, float]] = []
    for begin, end in spans:
        if joined and begin <= joined[-1][1] + 1.0:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined


def _rate_chart(times: list[dict[str, Any]]) -> str:
    """Pictures a second over the minutes at work; pauses between launches are cut out."""
    cuts = _union([(row["begun"], row["ended"]) for row in times])

    def worked(moment: float) -> float:
        return sum(min(max(moment - begin, 0.0), end - begin) for begin, end in cuts)

    whole = worked(cuts[-1][1])
    count = max(min(WINDOWS, len(times) // 2), 1)
    done: Counter[int] = Counter()
    for row in times:
        # A shard's pictures are spread evenly over the time that it took.
        begin, end = worked(row["begun"]), worked(row["ended"])
        first, last = (min(int(t / whole * count), count - 1) for t in (begin, end))
        for window in range(first, last + 1):
            low, high = whole * window / count, whole * (window + 1) / count
            part = (min(end, high) - max(begin, low)) / (end - begin) if end > begin else 1.0
            done[window] += row["pictures"] * part
    points = [
        (round(whole * (n + 0.5) / count / 60, 2), done[n] * count / whole) for n in range(count)
    ]
    return line_chart(
        points,
        label="Throughput",
        show=lambda value: f"{compact(value)} pictures/s",
        from_zero=True,
        exact=True,
        along="minute",
    )
