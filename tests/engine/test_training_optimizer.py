"""Momentum weights that follow inside the optimizer's step: the same weights, guarded alike."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import TrainSection
from engine.training.optimizer import GuardedAdamW, build_optimizer
from kernels import ema_
from tests.forked import succeed
from tests.runs import weights, write_config
from tests.shards import write_shards

MOMENTUM = 0.9
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def parameters() -> list[nn.Parameter]:
    """The same each time."""
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator)) for s in ((4, 5), (7,), (1,))]


def gradients(ours: list[nn.Parameter], number: int) -> None:
    """Of a step; large enough for clipping in every second one. The third has an infinity,
    the fifth none for one of them."""
    generator = torch.Generator().manual_seed(number)
    for parameter in ours:
        parameter.grad = torch.randn(parameter.shape, generator=generator) * (1 + number % 2 * 9)
    if number == 3:
        ours[1].grad[2] = float("inf")
    if number == 5:
        ours[0].grad = None


def optimizer(ours: list[nn.Parameter]) -> GuardedAdamW:
    """AdamW as a run has it without ZeRO."""
    return build_optimizer(ours, TrainSection(clip_norm=5.0), 1e-2)


class Asking(TorchDispatchMode):
    """Fails on what makes the host wait for a GPU and not for a CPU: to change many tensors by one
    of no dimensions, PyTorch asks for its value."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = str(function)
        assert not (name.startswith("aten._foreach_") and name.endswith("_.Scalar")), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("device", DEVICES)
def test_a_step_in_one_pass_waits_for_nothing(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    ours = [nn.Parameter(p.detach().to(device)) for p in parameters()]
    together = optimizer(ours)
    together.follow({p: p.detach().clone() for p in ours}, MOMENTUM)
    together.waits = True
    for parameter in ours:
        parameter.grad = torch.ones_like(parameter)
    # What is compiled and allocated once.
    together.step()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
    try:
        with Asking():
            together.step()
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert together.told.value()


def test_they_follow_as_if_updated_after_the_step() -> None:
    apart, together = parameters(), parameters()
    followers = [[p.detach().clone() * 0.5 for p in apart[:2]] for _ in range(2)]
    plain, joint = optimizer(apart), optimizer(together)
    joint.follow(dict(zip(together[:2], followers[1], strict=True)), MOMENTUM)
    for number in range(1, 7):
        gradients(apart, number)
        gradients(together, number)
        plain.step()
        if not plain.overflow:
            ema_(followers[0], [p.detach() for p in apart[:2]], MOMENTUM)
        joint.step()
        assert plain.overflow == joint.overflow == (number == 3)
    for one, other in zip([*apart, *followers[0]], [*together, *followers[1]], strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-7)
    for one, other in zip(apart, together, strict=True):
        assert list(plain.state[one]) == list(joint.state[other])
        for name, value in plain.state[one].items():
            torch.testing.assert_close(joint.state[other][name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("follows", [False, True])
def test_gradients_below_the_clip_norm_stay_as_they_are(follows: bool) -> None:
    ours, theirs = parameters(), parameters()
    guarded = optimizer(ours)
    plain = torch.optim.AdamW(theirs, 1e-2)
    if follows:
        guarded.follow({p: p.detach().clone() for p in ours}, MOMENTUM)
    gradients(ours, 1)
    norm = torch.nn.utils.get_total_norm([p.grad for p in ours])
    for one, other in zip(ours, theirs, strict=True):
        one.grad *= 0.1 / norm
        other.grad = one.grad.clone()
    guarded.step()
    plain.step()
    for one, other in zip(ours, theirs, strict=True):
        found, expected = guarded.state[one]["exp_avg"], plain.state[other]["exp_avg"]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_a_refused_step_leaves_followers_and_counts_alone() -> None:
    ours = parameters()
    follower = ours[0].detach().clone() * 0.5
    guarded = optimizer(ours)
    guarded.follow({ours[0]: follower}, MOMENTUM)
    before = [follower.clone(), *(p.detach().clone() for p in ours)]
    gradients(ours, 3)
    guarded.step()
    assert guarded.overflow
    assert all(torch.equal(a, b) for a, b in zip(before, [follower, *ours], strict=True))
    assert all(guarded.state[parameter]["step"] == 0 for parameter in ours)


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs with a poisoned step 2, momentum weights updated after the step and inside it."""
    folder = tmp_path_factory.mktemp("followers")
    data = write_shards(folder / "data", 32)
    runs = []
    for name, words in (("after", []), ("inside", ["--follow"])):
        config = write_config(folder, name, data)
        succeed("tests.train_many", ["--poison", 2, *words, config], folder / "log")
        runs.append(folder / name)
    return runs


@pytest.mark.slow
def test_a_run_ends_with_the_same_weights_and_files(both_ways: list[Path]) -> None:
    after, inside = (
        weights(run, 4) | load_file(run / "checkpoints" / "step_00000004" / "optimizer.safetensors")
        for run in both_ways
    )
    assert after.keys() == inside.keys()
    moved = 0
    for name, want in after.items():
        scale = want.abs().max().clamp(min=1e-3) if want.is_floating_point() else 1
        assert ((inside[name] - want).abs().max() if want.numel() else 0) <= 1e-4 * scale, name
        moved += name.startswith("visual_encoder_m.") and not torch.equal(
            want, after[name.replace("encoder_m.", "encoder.")]
        )
    assert moved > 10
