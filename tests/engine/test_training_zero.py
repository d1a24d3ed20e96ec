"""ZeRO 1 and 2 step on the weights themselves: DeepSpeed's own results, with fewer bytes moved."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.config import TrainSection
from engine.training.deepspeed_settings import guards_itself
from engine.training.optimizer import build_optimizer
from kernels import ema_
from tests.forked import succeed
from tests.runs import losses, write_config
from tests.shards import write_shards
from tests.zero_ranks import FOLLOWED, MOMENTUM, POISONED, RATE, STEPS, WAYS, Network, batch

Tensors = dict[str, torch.Tensor]
pytestmark = pytest.mark.xdist_group("zero")
OURS = ("DeepSpeedEngine", "OnePass")
OFFLOADS = ({"offload_optimizer": {"device": "cpu"}}, {"cpu_offload": True})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave."""
    folder = tmp_path_factory.mktemp("zero")
    succeed("tests.zero_ranks", [folder], folder / "log", ranks=2)
    return folder


def left(folder: Path, way: str, rank: int = 0) -> Tensors:
    """What lasts after each step of a way, by `STEP.NAME`."""
    return load_file(folder / f"{way}_{rank}.safetensors")


def differ(one: Tensors, other: Tensors) -> list[str]:
    """Names of tensors that are not the same bits."""
    assert one.keys() == other.keys()
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]


@pytest.mark.parametrize("way", [way for way, (*_, clip_norm) in WAYS.items() if not clip_norm])
def test_the_bits_are_those_of_deepspeeds_own_step(folder: Path, way: str) -> None:
    assert differ(left(folder, f"{way}_Plain"), left(folder, f"{way}_DeepSpeedEngine")) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", OURS)
def test_clipped_or_in_one_pass_they_are_rounded_otherwise(
    folder: Path, way: str, kind: str
) -> None:
    ours = left(folder, f"{way}_{kind}")
    for name, tensor in left(folder, f"{way}_Plain").items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", OURS)
def test_ranks_hold_the_same_and_a_refused_step_changes_nothing(folder: Path, kind: str) -> None:
    for way in WAYS:
        one = left(folder, f"{way}_{kind}")
        assert differ(one, left(folder, f"{way}_{kind}", 1)) == []
        steps = [{} for _ in range(STEPS)]
        for name, tensor in one.items():
            step, _, name = name.partition(".")
            steps[int(step)][name] = tensor
        moved = [len(differ(was, now)) > 0 for was, now in pairwise(steps)]
        assert moved == [step != POISONED for step in range(1, STEPS)]


def test_going_on_from_the_middle_gives_the_same_bits(folder: Path) -> None:
    for way in WAYS:
        whole, resumed = (left(folder, f"{way}_{kind}") for kind in ("DeepSpeedEngine", "Resumed"))
        assert len(resumed) == len(whole) // 2
        assert differ(resumed, {name: whole[name] for name in resumed}) == []


def test_one_process_with_all_of_the_batch_gets_there(folder: Path) -> None:
    network = Network()
    optimizer = build_optimizer(network.parameters(), TrainSection(clip_norm=1.0), RATE)
    followers = [network.get_parameter(name).detach() * 0.5 for name in FOLLOWED]
    two = left(folder, "clipped_OnePass")
    for step in range(STEPS):
        optimizer.zero_grad()
        both = [batch(step, rank, torch.float32) for rank in (0, 1)]
        torch.stack([network(x, step == POISONED) for x in both]).mean().backward()
        optimizer.step()
        assert optimizer.overflow == (step == POISONED)
        if not optimizer.overflow:
            network.clamp_temperature_()
            ema_(followers, [network.get_parameter(n).detach() for n in FOLLOWED], MOMENTUM)
        for name, tensor in network.state_dict().items():
            got = two[f"{step}.{name}"]
            torch.testing.assert_close(got, tensor, rtol=1e-4, atol=1e-5, msg=name)
    for name, follower in zip(FOLLOWED, followers, strict=True):
        torch.testing.assert_close(two[f"{step}.follower.{name}"], follower, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_bytes_moved_for_each_weight_of_a_part(folder: Path, rank: int) -> None:
    """Laid out 8, norm 4 (DeepSpeed: cast to double 12, norm 8), AdamW 28, written back 8; clipped
    8 more, which one pass saves too: but its definition, which a CPU runs, does not."""
    moved = json.loads((folder / f"moved_{rank}.json").read_text())
    for way, (_, _, clip_norm) in WAYS.items():
        clipped = 8 if clip_norm else 0
        assert moved[f"{way}_Plain"] == pytest.approx(64 + clipped, rel=0.01)
        assert moved[f"{way}_DeepSpeedEngine"] == pytest.approx(40 + clipped, rel=0.01)


@pytest.mark.parametrize(
    ("stage", "beside", "ours"),
    [(0, {}, True), (2, {}, True), (3, {}, False)]
    + [(stage, beside, stage == 0) for stage in (0, 1) for beside in OFFLOADS],
)
def test_who_refuses_a_step(stage: int, beside: dict[str, Any], ours: bool) -> None:
    assert guards_itself({"zero_optimization": {"stage": stage, **beside}}) == ours


def test_moments_beside_a_gpu_are_asked_for_by_the_ordinary_settings(tmp_path: Path) -> None:
    """DeepSpeed by itself offloads for its own optimizer alone."""
    beside = tmp_path / "beside.json"
    beside.write_text(json.dumps({"zero_optimization": OFFLOADS[0]}))
    data, steps = write_shards(tmp_path / "data", 16), {"max_steps": 1, "warmup_steps": 0}
    zero = {"stage": 1, "config": str(beside)}
    config = write_config(tmp_path, "run", data, train=steps, deepspeed=zero)
    succeed("launch.pretrain", ["--config", config], tmp_path / "log")
    assert set(losses(tmp_path / "run")) == {1}
