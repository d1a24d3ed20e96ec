"""One evaluation from its configuration to `results.json`."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engine.config import ConfigError, EvaluateSection, RunConfig
from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from engine.evaluation.caption import evaluate_captions
from engine.evaluation.retrieval import evaluate_retrieval
from engine.inference import LoadedBlip, load

Evaluator = Callable[[LoadedBlip, EvaluationSet, EvaluateSection], dict[str, Any]]
EVALUATORS: dict[str, Evaluator] = {
    "retrieval": evaluate_retrieval,
    "caption": evaluate_captions,
}


def evaluate(config: RunConfig, task: str) -> dict[str, Any]:
    """Evaluate `model.checkpoint` on `data.eval` and write `output_dir/results.json`.

    Raises:
        ConfigError: no checkpoint, no data, or results that another checkpoint left there.
    """
    if not config.model.checkpoint:
        raise ConfigError("no model: set model.checkpoint to a run folder or weights")
    if not config.data.eval:
        raise ConfigError("no pairs: set data.eval to shards or an annotation file")
    source = open_source(config.data.eval, config.data.image_root)
    precision, device = config.precision, config.device
    blip = load(config.model.checkpoint, device=device, precision=precision, section=config.model)
    size = blip.model.config.image_size
    pairs = EvaluationSet(source, size, config.data.max_words, config.data.max_pixels)
    results = EVALUATORS[task](blip, pairs, config.evaluate)
    results["checkpoint"] = config.model.checkpoint
    folder = Path(config.output_dir)
    write_results(folder / "results.json", results)
    for name, value in results["metrics"].items():
        chance = results["chance"].get(name)
        beside = "" if chance is None else f"   (chance {chance:.3f})"
        print(f"{name:40s} {value:.3f}{beside}")
    print(f"{folder / 'results.json'}: {results['count']} pictures", file=sys.stderr)
    return results


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
