"""What downstream tasks came to: figures with their deviations, as JSON and as a table."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

from engine.evaluation.metrics import cider_d_each

# Parts of the names of metrics that are shown in percent.
SHARES = ("accuracy", "_r", "mrr")
NAMES = {
    "text_to_image_r1": "R@1, caption to picture",
    "cider": "CIDEr",
    "accuracy": "accuracy",
    "accuracy_top1": "accuracy, zero-shot",
    "mrr": "mean reciprocal rank",
    "text_to_video_r5": "R@5, caption to clip",
}
UNTUNED, TUNED = "untuned", "tuned"


def deviation(results: dict[str, Any], metric: str) -> float:
    """Standard deviation of a metric over samples of as many held-out items.

    A mean p of n scores in [0, 1] has at most sqrt(p (1 - p) / n), and just that where every score
    is 0 or 1; one item of either is added, so that it is never 0. CIDEr, which goes to 10, has that
    of its scores a picture.

    Args:
        results: of one evaluation, as `results.json` holds them.
        metric: a mean over `count` items.
    """
    count = results["count"]
    if metric == "cider":
        rows = results["examples"]
        texts, references = zip(*((r["generated"], r["references"]) for r in rows), strict=True)
        return statistics.stdev(cider_d_each(texts, references)) / math.sqrt(count)
    share = (results["metrics"][metric] * count + 1) / (count + 2)
    return math.sqrt(share * (1 - share) / count)


def trained_seconds(run: Path) -> float:
    """Seconds of a run's steps, whatever else the process did, and however often it stopped."""
    rows = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds, samples = 0.0, 0
    for row in map(json.loads, rows):
        seconds += (row["samples_seen"] - samples) / row["images_per_second"]
        samples = row["samples_seen"]
    return seconds


def summarise(metric: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a task over its seeds.

    `std` is that of `tuned`: over seeds (n - 1) where there are several, else over held-out items.
    `gain_in_std` is the gain divided by the deviation of a difference of two such figures, each
    with the larger of its deviations over seeds and over items; untuned and tuned answer the same
    items, so it is rather too small.

    Args:
        metric: of the task.
        cells: a seed each: `seed`, and `untuned` and `tuned` results of the evaluation.
    """
    found: dict[str, Any] = {"metric": metric}
    noise = {}
    for side in (UNTUNED, TUNED):
        values = [cell[side]["metrics"][metric] for cell in cells]
        items = statistics.fmean(deviation(cell[side], metric) for cell in cells)
        seeds = statistics.stdev(values) if len(values) > 1 else None
        noise[side] = max(items, seeds or 0.0)
        found[side] = statistics.fmean(values)
        found |= {f"{side}_of_seeds": values, f"{side}_std_over_items": items}
        found[f"{side}_std_over_seeds"] = seeds
    over = "items" if found["tuned_std_over_seeds"] is None else "seeds"
    gain = found[TUNED] - found[UNTUNED]
    return found | {
        "std": found[f"tuned_std_over_{over}"],
        "std_over": "seeds" if over == "seeds" else "held-out items",
        "gain": gain,
        "gain_in_std": gain / math.hypot(*noise.values()),
        "chance": statistics.fmean(cell[TUNED]["chance"][metric] for cell in cells),
        "count": cells[0][TUNED]["count"],
        "seeds": [cell["seed"] for cell in cells],
        "metrics": {side: [cell[side]["metrics"] for cell in cells] for side in (UNTUNED, TUNED)},
    }


def table(results: dict[str, Any]) -> str:
    """One task a line, as Markdown."""
    heads = ("task", "metric", "chance", "untuned", "tuned", "gain", "held out", "minutes")
    rows = [heads, ("---",) * len(heads)]
    for name, task in results["tasks"].items():
        metric = task["metric"]
        percent = any(part in metric for part in SHARES)
        scale, digits, unit = (100, 1, " %") if percent else (1, 2, "")

        def shown(
            value: float, sign: str = "", scale: int = scale, digits: int = digits, unit: str = unit
        ) -> str:
            return f"{scale * value:{sign}.{digits}f}{unit}"

        spread = f"{scale * task['std']:.{digits}f}"
        rows.append(
            (
                f"`{name}`",
                NAMES.get(metric, metric),
                shown(task["chance"]),
                shown(task["untuned"]),
                f"{shown(task['tuned'])} ± {spread}",
                f"{shown(task['gain'], '+')} ({task['gain_in_std']:.1f} deviations)",
                str(task["count"]),
                f"{task['seconds'] / 60:.1f}",
            )
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    over = " and ".join(sorted({task["std_over"] for task in results["tasks"].values()}))
    about = (
        f"± is one standard deviation over {over}; seeds {results['seeds']}. Untuned is what the "
        "tuning starts from, heads as they are drawn. Minutes are of tuning and both evaluations, "
        f"of one seed; the pretraining before took {results['pretraining_seconds'] / 60:.1f}."
    )
    about = "; ".join([about.removesuffix("."), *results["notes"]]) + "."
    return "\n".join([*lines, "", about]) + "\n"
