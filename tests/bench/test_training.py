"""The step that is measured is a run's: over the same batches it leaves the same weights."""

from pathlib import Path

import pytest
import torch

from bench.pairs import Pairs
from bench.training import ALPHA, MOMENTUM, RATE, Ours
from engine.config import RunConfig
from engine.data.augment import normalised
from engine.data.counter import key_of
from engine.data.loader import build_loader
from engine.data.open_source import open_source
from engine.data.tokenizer import open_tokenizer
from engine.training.objectives import pretraining
from engine.training.trainer import WEIGHTS
from launch.cli import parse
from tests.forked import succeed
from tests.runs import weights, write_config
from tests.shards import write_shards
from tests.tiny import tiny_config

STEPS, BATCH, QUEUE = 3, 8, 24


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_measured_step_leaves_the_weights_of_a_runs(tmp_path: Path, precision: str) -> None:
    rates = ("learning_rate", "min_learning_rate", "warmup_learning_rate")
    path = write_config(
        tmp_path,
        "run",
        write_shards(tmp_path / "pairs", 40),
        precision=precision,
        model={"alpha": ALPHA, "alpha_ramp_epochs": 0.0, "momentum": MOMENTUM},
        train={"max_steps": STEPS, "negative_group_size": BATCH, "warmup_steps": 0, "clip_norm": 0}
        | dict.fromkeys(rates, RATE),
    )
    succeed("tests.train_many", [path], tmp_path / "log")
    config = parse(RunConfig, ["--config", str(path)], description="", examples="")
    tokenizer, source = open_tokenizer(None), open_source(config.data.train)
    torch.manual_seed(key_of(config.seed, WEIGHTS) >> 1)
    built = pretraining(config, tokenizer).build(fresh=True)

    ours = Ours(tiny_config(), QUEUE, torch.device("cpu"))
    ours.model.load_state_dict(built.model.state_dict())
    ours.momentum.load_state_dict(built.momentum.state_dict())
    steps = {"rank": 0, "world_size": 1, "start_step": 0, "stop_step": STEPS}
    for batch in build_loader(config, source, tokenizer, **steps):
        ids, mask = batch.input_ids, batch.attention_mask
        ours.step(
            Pairs(normalised(batch.image), ids, mask, ids.shape[1], batch.capacity), precision
        )
    left = weights(tmp_path / "run", STEPS)
    here = {**ours.model.state_dict(), **ours.momentum.state_dict()}
    assert left.keys() == here.keys() and ours.steps == STEPS
    for name, tensor in left.items():
        assert torch.equal(tensor, here[name]), name
    begun = {**built.model.state_dict(), **built.momentum.state_dict()}
    moved = [name for name, tensor in left.items() if not torch.equal(tensor, begun[name])]
    assert len(moved) > len(left) / 2
