"""One cell of the experiment: an arm with a seed, from its pairs to its figures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.ablation.arms import ARMS, Arm
from engine.ablation.config import AblationConfig
from engine.ablation.preparation import Kind, Preparation
from engine.config import RunConfig
from engine.data.open_source import open_source
from engine.data.tokenizer import open_tokenizer
from engine.evaluation.run import write_results
from engine.stages import Stages
from engine.training.objectives import Contrast, Pretraining

WAYS = ("text_to_image", "image_to_text")


def make_cell(
    config: AblationConfig, stages: Stages, seed: int, name: str, folder: Path
) -> dict[str, Any]:
    """Train and evaluate an arm, and write its `cell.json`.

    Args:
        config: of the experiment.
        stages: that run.
        seed: of the cell.
        name: of the arm.
        folder: of the cell.

    Returns:
        What `cell.json` holds: figures, and what the pretraining cost.

    Raises:
        Stopped: a signal asked to stop, and everything is saved.
        ConfigError: what a stage refuses.
    """
    arm = ARMS[name]
    prepared = Preparation(config, stages, seed, name, arm)
    start = prepared.base if arm.continued else None
    run = prepared.run(config.pretrain, folder, prepared.pairs(), start)
    objective = Contrast if arm.contrastive else Pretraining
    stages.train(run, objective)
    facts = {"arm": name, "seed": seed, "clean_fraction": prepared.share}
    facts |= evaluate_arm(stages, run, arm)
    if arm.pairs != "found":
        facts |= prepared.judgement()
    facts |= stages.on_main(lambda: cost_of(run, objective))
    stages.on_main(lambda: write_results(folder / "cell.json", facts))
    return facts


def evaluate_arm(stages: Stages, run: RunConfig, arm: Arm) -> dict[str, float | None]:
    """Zero-shot retrieval, mean of both ways, and captions, on the held-out pairs.

    Args:
        stages: that run.
        run: a finished pretraining.
        arm: which it is of.

    Returns:
        retrieval_rK in the arm's own best way: re-ranked by matching where it was trained, by
        contrast where not; retrieval_rK_contrast by contrast alone; cider, or None where no
        captioning was trained; and what chance would give.
    """
    folder = Path(run.output_dir)
    start = replace(run.model, checkpoint=str(folder))

    def asked(task: str) -> RunConfig:
        return replace(run, output_dir=str(folder / "evaluation" / task), model=start)

    found = stages.evaluate(asked("retrieval"), "retrieval")
    metrics, chance, facts = found["metrics"], found["chance"], {}
    for k in (1, 5):
        by_contrast = _mean(metrics, f"_r{k}_without_matching")
        best = by_contrast if arm.contrastive else _mean(metrics, f"_r{k}")
        facts |= {f"retrieval_r{k}": best, f"retrieval_r{k}_contrast": by_contrast}
        facts[f"chance_r{k}"] = _mean(chance, f"_r{k}")
    facts["cider"] = None
    if not arm.contrastive:
        facts["cider"] = stages.evaluate(asked("caption"), "caption")["metrics"]["cider"]
    return facts


def _mean(metrics: dict[str, float], ending: str) -> float:
    return sum(metrics[f"{way}{ending}"] for way in WAYS) / len(WAYS)


def cost_of(run: RunConfig, objective: Kind) -> dict[str, float]:
    """What the arm's own pretraining cost: pairs that it drew from, steps, samples, FLOP, seconds.

    FLOP are the useful ones of `blip_model.flops` at the mean length of all texts; seconds are
    those of the steps, whatever else the process did.
    """
    source = open_source(run.data.train)
    texts = [t for n in range(len(source)) for t in source.read(n).captions if isinstance(t, str)]
    tokenizer = open_tokenizer(run.model.vocabulary, run.model.network())
    tokens = tokenizer.encode(texts, run.data.max_tokens)[1].sum().item() / len(texts)
    steps, seconds = 0, 0.0
    lines = (Path(run.output_dir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        pairs = (row["step"] - steps) * run.train.global_batch_size
        seconds += pairs / row["images_per_second"]
        steps = row["step"]
    samples = steps * run.train.global_batch_size
    return {
        "pairs": len(source),
        "steps": steps,
        "samples": samples,
        "flop": objective(run, tokenizer).flops(tokens) * samples,
        "seconds": seconds,
    }
