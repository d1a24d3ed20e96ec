"""Visual dialogue on small real data, by its commands: tuning beats what it starts from."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from engine.collect import openmoji
from engine.collect.pair_set import CollectConfig, collect
from launch import evaluate
from tests.commands import call
from tests.forked import succeed
from tests.runs import write_config
from tests.tiny import tiny_config, write_model

TRADES = re.compile("farmer|cook|student|pilot|judge|singer|artist|teacher|mechanic|scientist")


def recall(folder: Path, weights: Path) -> tuple[float, float, int]:
    """On held-out rounds: R@1, that of a random order, and their number."""
    data, out = folder / "set/tasks/visdial/heldout.json", folder / f"results_{weights.name}"
    words = ["--task", "visdial", "--model.checkpoint", weights, "--data.eval", data]
    words += ["--output_dir", out, "--precision", "fp32", "--device", "cpu"]
    done = call(evaluate.main, *words)
    assert done.code == 0, done.err
    results = json.loads((out / "results.json").read_text())
    return results["metrics"]["r1"], results["chance"]["r1"], results["count"]


@pytest.mark.slow
def test_tuning_beats_what_it_starts_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [drawing for drawing in openmoji.drawings() if TRADES.search(drawing.name)]
    monkeypatch.setattr(openmoji, "drawings", lambda: list(found))
    settings = {"size": 32, "held_out": 40, "tasks": "visdial"}
    collect(CollectConfig(output_dir=str(tmp_path / "set"), **settings), lambda line: None)
    task = tmp_path / "set/tasks/visdial"
    # As many rounds as tell the two apart.
    heldout = json.loads((task / "heldout.json").read_text())
    heldout["data"]["dialogs"] = heldout["data"]["dialogs"][:80]
    (task / "heldout.json").write_text(json.dumps(heldout))
    torch.manual_seed(0)
    # Evaluation takes what tuning starts from as it is: the matching head is there.
    start = Blip(tiny_config())
    write_model(tmp_path / "start", start)
    train = {"max_steps": 60, "global_batch_size": 16, "learning_rate": 5e-3, "warmup_steps": 5}
    sections = {"model": {"checkpoint": str(tmp_path / "start")}, "train": train}
    config = write_config(tmp_path, "tuned", task / "train.json", task="visdial", **sections)
    succeed("tests.train_many", [config], tmp_path / "said")
    before, chance, count = recall(tmp_path, tmp_path / "start")
    after, _, _ = recall(tmp_path, tmp_path / "tuned")
    error = math.sqrt(0.25 / count)
    assert after > before + 4 * error, (before, after, error)
    assert after > chance + 4 * error, (chance, after, error)
