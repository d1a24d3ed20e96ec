"""From finished cells to `results.json` and a table: means, spread over seeds, paired gains."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.ablation.arms import ARMS, BASE, base_of
from engine.ablation.config import AblationConfig
from engine.report.machine import commit, machine

FIGURES = (
    "retrieval_r1",
    "retrieval_r1_contrast",
    "retrieval_r5",
    "retrieval_r5_contrast",
    "cider",
    "filter_auc",
    "filter_auc_itc",
    "filter_auc_base",
    "filter_precision",
    "filter_recall",
    "filter_kept_swapped",
)
COSTS = ("pairs", "steps", "samples", "flop", "seconds")
Cell = dict[str, Any]


def collect_cells(folder: Path) -> list[Cell]:
    """Every finished cell of an experiment's folder, of whatever process."""
    paths = sorted(folder.glob("seed_*/*/cell.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample deviation (n - 1); None where one value has none."""
    values = list(values)
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def summarise(cells: list[Cell], config: AblationConfig, command: str) -> dict[str, Any]:
    """What `results.json` holds.

    Every figure of an arm is a mean over its seeds with its spread. `gain_over_none` is the mean
    of the differences to `none` with the same clean set and seed: the same world and the same
    first weights, so what seeds have in common falls out of it. Like is compared with like, by the
    `figure` that it names: re-ranked R@1, of arms of contrast alone R@1 by contrast.

    Args:
        cells: finished ones.
        config: of the experiment.
        command: that was given.
    """
    by_arm: dict[str, dict[int, Cell]] = {}
    for cell in cells:
        by_arm.setdefault(cell["arm"], {})[cell["seed"]] = cell
    arms = {name: _arm(name, by_arm) for name in ARMS if name in by_arm}
    filters = [arm for name, arm in arms.items() if ARMS[name].clean is None]
    auc = next((arm["filter_auc"] for arm in filters if "filter_auc" in arm), None)
    chance = {cell["chance_r1"] for cell in cells}
    return {
        "filter_auc": auc,
        "arms": arms,
        "seeds": sorted({cell["seed"] for cell in cells}),
        "steps": sorted({cell["steps"] for cell in cells}),
        "noise": config.noise,
        "clean_fraction": config.clean_fraction,
        "chance_r1": min(chance, default=None),
        "pairs": {"train": config.data.train, "clean": config.data.clean, "eval": config.data.eval},
        "machine": dict(machine()),
        "commit": commit(),
        "command": command,
    }


def _arm(name: str, by_arm: dict[str, dict[int, Cell]]) -> dict[str, Any]:
    mine, base = by_arm[name], by_arm.get(base_of(name), {})
    seeds = sorted(mine)
    found: dict[str, Any] = {"what": ARMS[name].what, "seeds": seeds}
    for figure in FIGURES:
        values = [mine[seed].get(figure) for seed in seeds]
        if None not in values:
            found[figure] = spread(values)
    paired = [seed for seed in seeds if seed in base]
    if paired and name != base_of(name):
        figure = "retrieval_r1_contrast" if ARMS[name].contrastive else "retrieval_r1"
        gains = [mine[seed][figure] - base[seed][figure] for seed in paired]
        about = {"seeds": paired, "over": base_of(name), "figure": figure}
        found["gain_over_none"] = spread(gains) | about
    found["cost"] = {cost: spread([mine[seed][cost] for seed in seeds]) for cost in COSTS}
    found["clean_fraction"] = mine[seeds[0]]["clean_fraction"]
    return found


def pairs_of(results: dict[str, Any]) -> str:
    """What the web and the clean pairs were, in words."""
    clean = f"{100 * results['clean_fraction']:g} %"
    if not results["noise"]:
        return f"the web as found, {clean} of a clean set of its own"
    return f"{100 * results['noise']:g} % of the web's captions swapped, {clean} of the pairs clean"


def table(results: dict[str, Any]) -> str:
    """Everything that matters as Markdown, one arm a line; spread is over seeds."""
    heads = ("arm", "pretrained on", "seeds", "R@1 %", "gain over none", "R@1 % by contrast")
    heads += ("R@5 %", "CIDEr", "filter AUC", "pairs", "TFLOP", "minutes")
    rows = [heads, ("---",) * len(heads)]
    for name, arm in results["arms"].items():
        cost = {key: value["mean"] for key, value in arm["cost"].items()}
        gain = arm.get("gain_over_none")
        rows.append(
            (
                name,
                arm["what"],
                str(len(arm["seeds"])),
                _shown(arm["retrieval_r1"], 100, 1),
                _shown(gain, 100, 1, signed=True),
                _shown(arm["retrieval_r1_contrast"], 100, 1),
                _shown(arm["retrieval_r5"], 100, 1),
                _shown(arm.get("cider"), 1, 2),
                _shown(arm.get("filter_auc"), 1, 3),
                f"{cost['pairs']:.0f}",
                f"{cost['flop'] / 1e12:.3g}",
                f"{cost['seconds'] / 60:.1f}",
            )
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    about = (
        f"{pairs_of(results)[0].upper()}{pairs_of(results)[1:]}; mean ± sample deviation over "
        f"seeds {results['seeds']}; chance R@1 {100 * (results['chance_r1'] or 0):.2f} %. "
        f"Gains are differences to `{BASE}` of the same seed and clean set, of R@1 re-ranked by "
        "matching on both sides; where an arm is trained by contrast alone, of R@1 by contrast on "
        "both. TFLOP and minutes are the arm's own pretraining; base, captioner, filter and "
        "captions come on top."
    )
    return "\n".join([*lines, "", about]) + "\n"


def _shown(value: dict[str, Any] | None, scale: float, digits: int, signed: bool = False) -> str:
    if value is None:
        return "-"
    sign = "+" if signed else ""
    text = f"{scale * value['mean']:{sign}.{digits}f}"
    return text if value["std"] is None else f"{text} ± {scale * value['std']:.{digits}f}"
