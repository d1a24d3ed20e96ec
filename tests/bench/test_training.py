"""The step that is measured is a run's: over the same batches it leaves the same weights."""

from pathlib import Path

import pytest
import torch

from bench.pairs import Pairs
from bench.training import ALPHA, MOMENTUM, RATE, Ours
from engine.data.augment import normalised
from engine.data.batch import Batch
from engine.training.step import Launched, TwoPhaseStep
from launch.pretrain import main
from tests.commands import call
from tests.runs import weights, write_config
from tests.shards import write_shards
from tests.tiny import tiny_config

STEPS, BATCH, QUEUE = 3, 8, 24


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_measured_step_leaves_the_weights_of_a_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    taken: list[Batch] = []
    begun: list[dict[str, torch.Tensor]] = []
    launch = TwoPhaseStep.launch

    def noted(self: TwoPhaseStep, step: int, batches: list[Batch]) -> Launched:
        if not taken:
            modules = (self.engine.model, self.momentum)
            begun.extend({k: v.clone() for k, v in m.state_dict().items()} for m in modules)
        taken.extend(batches)
        return launch(self, step, batches)

    monkeypatch.setattr(TwoPhaseStep, "launch", noted)
    rates = ("learning_rate", "min_learning_rate", "warmup_learning_rate")
    run = write_config(
        tmp_path,
        "run",
        write_shards(tmp_path / "pairs", 40),
        precision=precision,
        model={"alpha": ALPHA, "alpha_ramp_epochs": 0.0, "momentum": MOMENTUM},
        train={"max_steps": STEPS, "negative_group_size": BATCH, "warmup_steps": 0, "clip_norm": 0}
        | dict.fromkeys(rates, RATE),
    )
    ended = call(main, "--config", run)
    assert ended.code == 0, ended.err

    ours = Ours(tiny_config(), QUEUE, torch.device("cpu"))
    online, followers = begun
    online["temp"] = online["temp"].reshape(())
    ours.model.load_state_dict(online)
    ours.momentum.load_state_dict(followers)
    for batch in taken:
        ids, mask = batch.input_ids, batch.attention_mask
        image = normalised(batch.image)
        ours.step(Pairs(image, ids, mask, ids.shape[1], batch.capacity), precision)
    left = weights(tmp_path / "run", STEPS)
    here = {**ours.model.state_dict(), **ours.momentum.state_dict()}
    assert left.keys() == here.keys()
    assert len(taken) == STEPS
    for name, tensor in left.items():
        assert torch.equal(tensor, here[name]), name
    start = {**online, **followers}
    moved = [name for name, tensor in left.items() if not torch.equal(tensor, start[name])]
    assert len(moved) > len(left) / 2
