"""Question answering on small real data, by its commands: tuning beats what it starts from."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from blip_model.vqa import BlipVqa
from engine import checkpoint
from engine.collect import openmoji, questions
from engine.collect.pair_set import CollectConfig, collect
from engine.config import ModelSection
from engine.weights import initialise
from launch import evaluate
from tests.commands import call
from tests.forked import succeed
from tests.runs import write_config
from tests.tiny import tiny_config

TRADES = re.compile("farmer|cook|student|pilot|judge|singer|artist|teacher|mechanic|scientist")


def accuracy(folder: Path, weights: Path) -> tuple[float, float, int]:
    """On held-out questions: accuracy, that of the commonest answer, and their number."""
    task, out = folder / "set" / "tasks" / "vqa", folder / f"results_{weights.name}"
    words = ["--task", "vqa", "--model.checkpoint", weights, "--data.eval", task / "heldout.json"]
    words += ["--evaluate.answer_list", task / "answer_list.json", "--output_dir", out]
    done = call(evaluate.main, *words, "--precision", "fp32", "--device", "cpu")
    assert done.code == 0, done.err
    results = json.loads((out / "results.json").read_text())
    scores = (results[of]["accuracy"] for of in ("metrics", "chance"))
    return *scores, results["count"]


@pytest.mark.slow
def test_tuning_beats_what_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [drawing for drawing in openmoji.drawings() if TRADES.search(drawing.name)]
    monkeypatch.setattr(openmoji, "drawings", lambda: list(found))
    monkeypatch.setattr(questions, "LEAST", {"train": 8, "heldout": 3})
    settings = {"size": 32, "held_out": 40, "tasks": "vqa"}
    collect(CollectConfig(output_dir=str(tmp_path / "set"), **settings), lambda line: None)
    torch.manual_seed(0)
    start, untuned = Blip(tiny_config()), BlipVqa(tiny_config())
    state = {"network": vars(start.config)}
    checkpoint.write_as(tmp_path / "start", 0, {"model": start.state_dict()}, state)
    initialise(untuned, ModelSection(preset="tiny", checkpoint=str(tmp_path / "start")))
    checkpoint.write_as(tmp_path / "untuned", 0, {"model": untuned.state_dict()}, state)
    train = {"max_steps": 100, "global_batch_size": 16, "learning_rate": 5e-3, "warmup_steps": 5}
    model, data = {"checkpoint": str(tmp_path / "start")}, tmp_path / "set" / "tasks" / "vqa"
    sections = {"model": model, "train": train}
    config = write_config(tmp_path, "tuned", data / "train.json", task="vqa", **sections)
    succeed("tests.train_many", [config], tmp_path / "said")
    before, chance, count = accuracy(tmp_path, tmp_path / "untuned")
    after, _, _ = accuracy(tmp_path, tmp_path / "tuned")
    error = math.sqrt(0.25 / count)
    assert after > before + 4 * error, (before, after, error)
    assert after > chance, (chance, after, error)
