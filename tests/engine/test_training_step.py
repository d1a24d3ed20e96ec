"""What a step is told is a function of its number and its slots, and what it leaves is in order."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from blip_model.momentum import MomentumFeatures
from engine.config import ModelSection, RunConfig, TrainSection
from engine.data.batch import Batch
from engine.data.counter import key_of
from engine.runtime import Runtime
from engine.training.schedule import learning_rate
from engine.training.step import DROPOUT, TwoPhaseStep

CONFIG = RunConfig(
    seed=5,
    precision="fp32",
    model=ModelSection(alpha=0.4, alpha_ramp_epochs=2.0, momentum=0.75),
    train=TrainSection(global_batch_size=16, negative_group_size=2, warmup_steps=9),
)
SAMPLES, STEP, COUNT = 64, 3, 4
LOSSES = ([1.0, 2.0], [3.0, 6.0])


class Engine:
    """Notes what it is asked; its loss is one number after the other."""

    recorded, stage = None, 0

    def __init__(self, accepts: bool) -> None:
        self.model, self.inner_optimizer = nn.Linear(1, 1), SimpleNamespace()
        self.accepts, self.done, self.told, self.seeds = accepts, [], [], []

    def follow_in_step(self, followers: dict[str, nn.Parameter], momentum: float) -> bool:
        return False

    def forward(self, *inputs: torch.Tensor, **told: Any) -> dict[str, torch.Tensor]:
        self.told.append(told)
        self.seeds.append(torch.initial_seed())
        losses = LOSSES[len(self.told) - 1]
        return dict(zip(("loss_a", "loss_b"), map(torch.tensor, losses), strict=True))

    def backward(self, loss: torch.Tensor) -> None:
        self.done.append(("backward", loss.item()))

    def step(self, rate: float, *, last: bool) -> None:
        self.done.append(("step", rate, last))

    def accepted(self) -> bool:
        return self.accepts

    def clamp_temperature_(self) -> None:
        self.done.append("clamp")

    @contextmanager
    def whole_parameters(self, names: list[str]) -> Iterator[dict[str, torch.Tensor]]:
        yield {"online": torch.ones(1)}


class Follower:
    """Features that say of which micro-batch they are; notes what it gets."""

    with_ids = True

    def __init__(self) -> None:
        self.made, self.got = 0, []

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        return []

    def features(self, *inputs: object) -> MomentumFeatures:
        self.made += 1
        rows = torch.full((COUNT, 1), float(self.made))
        return MomentumFeatures(rows, -rows, torch.zeros(1, 2), torch.zeros(1, 2))

    def update(self, online: dict[str, torch.Tensor], momentum: float) -> None:
        self.got.append((list(online), momentum))

    def enqueue(self, *given: torch.Tensor | None) -> None:
        self.got.append([None if one is None else one.flatten().tolist() for one in given])


def batch(first: int) -> Batch:
    ids = torch.ones(COUNT, 3, dtype=torch.long)
    pixels = torch.zeros(COUNT, 3, 2, 2, dtype=torch.uint8)
    numbers = torch.arange(first, first + COUNT)
    return Batch(pixels, ids, ids, numbers, ["key"] * COUNT, [""] * COUNT)


def taken(accepts: bool) -> tuple[Engine, Follower, tuple[bool, torch.Tensor, bool]]:
    """A step of two micro-batches by the second of two processes."""
    objective = SimpleNamespace(
        losses=("loss_a", "loss_b"), settings=lambda batch, contrast: contrast
    )
    engine, follower = Engine(accepts), Follower()
    here = Runtime(1, 2, torch.device("cpu"))
    step = TwoPhaseStep(CONFIG, here, objective, engine, follower, SAMPLES)
    return engine, follower, step.settle(step.launch(STEP, [batch(10), batch(20)]))


def test_draws_and_schedules_are_those_of_the_slots() -> None:
    engine, _, _ = taken(accepts=True)
    # Slots of the step begin at 48; ranks stand side by side in each micro-batch.
    first = [52, 60]
    assert engine.seeds == [key_of(5, DROPOUT, slot) >> 1 for slot in first]
    for told, slot in zip(engine.told, first, strict=True):
        assert told["group_keys"].tolist() == [slot // 2, slot // 2 + 1]
        assert (told["seed"], told["group_size"]) == (5, 2)
        assert told["alpha"].item() == pytest.approx(0.4 * 3 / 8)
    assert [told["momentum"].image_feature[0, 0].item() for told in engine.told] == [1, 2]


def test_the_optimizer_steps_once_and_by_the_rate_of_the_step() -> None:
    engine, _, (accepted, losses, again) = taken(accepts=True)
    rate = learning_rate(CONFIG.train, STEP, SAMPLES)
    passes = [("backward", 3.0), ("step", rate, False), ("backward", 9.0), ("step", rate, True)]
    assert engine.done == [*passes, "clamp"]
    assert (accepted, again) == (True, False)
    assert losses.tolist() == [2.0, 4.0] and losses.dtype == torch.float64


def test_followers_and_queues_come_after_a_step_that_was_taken() -> None:
    _, follower, _ = taken(accepts=True)
    images = [1.0] * COUNT + [2.0] * COUNT
    ids = [*range(10, 14), *range(20, 24)]
    queued = [images, [-value for value in images], ids, None]
    assert follower.got == [(["online"], 0.75), queued]
    engine, follower, (accepted, _, again) = taken(accepts=False)
    assert (accepted, again) == (False, True)
    assert follower.got == [] and "clamp" not in engine.done
