"""Questions about videos on small real data, by its commands: tuning beats what it starts from."""

import json
import math
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from blip_model.vqa import BlipVqa
from engine import checkpoint
from engine.collect import openmoji
from engine.collect.clips import make_clips
from engine.collect.drawing import draw
from engine.config import ModelSection
from engine.data.shards import ShardWriter
from engine.weights import initialise
from launch import evaluate
from tests.commands import call
from tests.forked import succeed
from tests.runs import write_config
from tests.tiny import tiny_config

# What men, women and persons do; a trade alone names nobody.
DEEDS = {
    "train": ("kneeling", "bowing", "swimming", "biking", "surfing", "frowning"),
    "heldout": ("rowing", "tipping hand"),
}


def write_people(folder: Path, part: str) -> str:
    """Drawings of people who do these, as shards."""
    with ShardWriter(folder / part, part, 200) as writer:
        for number, one in enumerate(openmoji.drawings()):
            if any(deed in one.name for deed in DEEDS[part]):
                facts = {"uid": one.code, "url": ""}
                writer.add(f"{number:06d}", draw(one.path, 32), "png", one.name, facts)
    return str(folder / part)


def accuracy(folder: Path, weights: Path) -> tuple[float, float, int]:
    """On held-out questions: accuracy, that of the commonest answer, and their number."""
    task, out = folder / "task", folder / f"results_{weights.name}"
    words = ["--task", "video_qa", "--model.checkpoint", weights]
    words += ["--data.eval", task / "qa_heldout.json", "--output_dir", out, "--device", "cpu"]
    words += ["--evaluate.answer_list", task / "answer_list.json", "--precision", "fp32"]
    done = call(evaluate.main, *words)
    assert done.code == 0, done.err
    results = json.loads((out / "results.json").read_text())
    scores = (results[of]["accuracy"] for of in ("metrics", "chance"))
    return *scores, results["count"]


@pytest.mark.slow
def test_tuning_beats_what_it_starts_from(tmp_path: Path) -> None:
    parts = {part: write_people(tmp_path, part) for part in DEEDS}
    make_clips(tmp_path / "task", **parts, count=200, held_out=80)
    torch.manual_seed(0)
    start, untuned = Blip(tiny_config()), BlipVqa(tiny_config())
    state = {"network": vars(start.config)}
    checkpoint.write_as(tmp_path / "start", 0, {"model": start.state_dict()}, state)
    initialise(untuned, ModelSection(preset="tiny", checkpoint=str(tmp_path / "start")))
    checkpoint.write_as(tmp_path / "untuned", 0, {"model": untuned.state_dict()}, state)
    train = {"max_steps": 60, "global_batch_size": 16, "learning_rate": 5e-3, "warmup_steps": 5}
    model, data = {"checkpoint": str(tmp_path / "start")}, tmp_path / "task" / "qa_train.json"
    sections = {"task": "video_qa", "model": model, "train": train}
    config = write_config(tmp_path, "tuned", data, **sections)
    succeed("tests.train_many", [config], tmp_path / "said")
    before, chance, count = accuracy(tmp_path, tmp_path / "untuned")
    after, _, _ = accuracy(tmp_path, tmp_path / "tuned")
    error = math.sqrt(0.25 / count)
    assert after > before + 4 * error, (before, after, error)
    assert after > chance, (chance, after, error)
