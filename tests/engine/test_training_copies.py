"""Whole steps with weights kept in bf16 beside them: the same bits, and no weight is cast."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from blip_model.config import preset
from blip_model.layers import multiplied_weights
from blip_model.med import Projections
from blip_model.momentum import Momentum, online_name
from blip_model.pretrain import BlipPretrain
from engine.config import TrainSection
from engine.training.optimizer import build_optimizer
from kernels.copies import Copies, in_dtype
from tests.forked import run, succeed
from tests.runs import losses, weights, write_config
from tests.shards import write_shards
from tests.tiny import tiny_config, tiny_inputs

LOW = torch.bfloat16


class Casts(TorchDispatchMode):
    """Counts casts of what lies in the memory of given tensors, by their number of dimensions."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        super().__init__()
        self._memory = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self.of_vectors = self.of_matrices = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        if function._schema.name in ("aten::_to_copy", "aten::copy_"):
            source = arguments[-1]
            ours = source.untyped_storage().data_ptr() in self._memory
            if ours and source.dtype == torch.float32 and result.dtype == LOW:
                self.of_vectors += source.ndim < 2
                self.of_matrices += source.ndim > 1
        return result


def steps(
    *, keep: bool, inside: bool, recompute: bool = False, count: int = 3, device: str = "cpu"
) -> tuple[dict[str, torch.Tensor], list[Casts], Copies]:
    """What lasts after some steps of two micro-batches, and the casts in the passes of each.

    Args:
        keep: copies.
        inside: momentum weights follow inside the optimizer's step.
        recompute: activations.
        count: of steps. The third is refused, and before the second the weights are changed.
        device: that they run on.
    """
    torch.manual_seed(0)
    model = BlipPretrain(tiny_config()).to(device)
    model.recompute("all" if recompute else "norms")
    momentum = Momentum(model, 8).to(device)
    online, followers = dict(model.named_parameters()), dict(momentum.named_parameters())
    optimizer = build_optimizer(model.parameters(), TrainSection(clip_norm=1.0), 1e-2)
    if inside:
        optimizer.follow({online[online_name(n)]: p for n, p in followers.items()}, 0.9)
    kept = Copies(multiplied_weights(model, momentum) if keep else [], LOW)
    optimizer.copies = kept
    found, casts = {}, []
    for step in range(count):
        if step == 1:
            # As clamping does, or whoever else writes weights; seldom as much.
            with torch.no_grad():
                for parameter in [*model.parameters(), *momentum.parameters()]:
                    parameter.mul_(0.75)
        kept.refresh()
        with Casts([*online.values(), *followers.values()]) as counted:
            for part in range(2):
                inputs = [tensor.to(device) for tensor in tiny_inputs(4, seed=2 * step + part)]
                torch.manual_seed(step)
                with torch.autocast(device, LOW):
                    losses = model(*inputs, momentum.features(*inputs), alpha=0.4, seed=step)
                sum(losses.values()).backward()
        casts.append(counted)
        found |= {f"{step}.{name}": loss.detach() for name, loss in losses.items()}
        if step == 2:
            online["itm_head.bias"].grad[0] = float("inf")
        optimizer.step()
        assert optimizer.overflow == (step == 2)
        optimizer.zero_grad()
        if not optimizer.overflow:
            model.clamp_temperature_()
            if not inside:
                momentum.update(online, 0.9)
    found |= {name: tensor.detach() for name, tensor in (online | followers).items()}
    return found, casts, kept


@pytest.mark.parametrize("inside", [False, True], ids=["after", "inside"])
def test_steps_give_the_same_bits_and_cast_no_weight(inside: bool) -> None:
    (want, before, _), (got, after, kept) = (
        steps(keep=keep, inside=inside) for keep in (False, True)
    )
    assert want.keys() == got.keys()
    assert [name for name, tensor in want.items() if not torch.equal(tensor, got[name])] == []
    assert [(c.of_vectors, c.of_matrices) for c in after] == [(0, 0)] * 3
    assert all(c.of_matrices > 100 for c in before)
    # The last step was refused; those before wrote every copy, in their one pass or not at all.
    assert kept.refresh() == 0
    kept.check()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("finite", [True, False])
def test_a_step_leaves_no_copy_of_what_was_before(device: str, finite: bool) -> None:
    """Weights that change after the passes, in a step that is taken and in one that is not."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    weight = nn.Parameter(torch.randn(4, 300, device=device))
    follower = weight.detach() * 0.5
    optimizer = build_optimizer([weight], TrainSection(clip_norm=1.0), 1e-2)
    optimizer.follow({weight: follower}, 0.9)
    optimizer.copies = kept = Copies([weight, follower], LOW)
    places = [kept.of(weight).data_ptr(), kept.of(follower).data_ptr()]
    for tensor in (weight.detach(), follower):
        tensor.add_(1)
    weight.grad = torch.full_like(weight, 1.0 if finite else float("inf"))
    optimizer.step()
    assert optimizer.overflow is not finite
    kept.check()
    with torch.no_grad():
        assert [in_dtype(t, LOW).data_ptr() for t in (weight, follower)] == places
        assert all(torch.equal(in_dtype(t, LOW), t.to(LOW)) for t in (weight, follower))


@pytest.mark.gpu
def test_a_gpu_casts_no_weight_either() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    for keep in (False, True):
        _, (casts,), kept = steps(keep=keep, inside=True, count=1, device="cuda")
        assert (casts.of_matrices == 0) is keep
        assert casts.of_vectors == 0 or not keep
        assert kept.refresh() == 0
        kept.check()


def test_layers_that_run_again_read_copies_too() -> None:
    (want, *_), (got, casts, _) = (
        steps(keep=keep, inside=True, recompute=True, count=1) for keep in (False, True)
    )
    assert [name for name, tensor in want.items() if not torch.equal(tensor, got[name])] == []
    assert casts[0].of_matrices == 0


def test_one_pass_leaves_no_copy_to_be_written() -> None:
    _, _, kept = steps(keep=True, inside=True, count=1)
    assert kept.refresh() == 0
    _, _, kept = steps(keep=True, inside=False, count=1)
    assert kept.refresh() > 100


def test_a_model_that_evaluates_between_steps_reads_what_it_has_become() -> None:
    torch.manual_seed(0)
    model = BlipPretrain(tiny_config()).eval()
    image = tiny_inputs(2)[0]
    with torch.autocast("cpu", LOW), torch.no_grad():
        kept = Copies(multiplied_weights(model), LOW)
        first = model.encode_image(image)
        for parameter in model.parameters():
            parameter.add_(0.01)
        changed = model.encode_image(image)
        kept.refresh()
        refreshed = model.encode_image(image)
        del kept
        cast = model.encode_image(image)
    assert not torch.equal(first, changed)
    assert torch.equal(changed, cast)
    assert torch.equal(refreshed, cast)


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_what_reads_one_input_is_copied_side_by_side(size: str) -> None:
    """Queries, keys and values of each layer: one product reads them as they lie."""
    with torch.device("meta"):
        model = BlipPretrain(preset(size))
    momentum = Momentum(model, 8)
    kept = Copies(multiplied_weights(model, momentum), LOW)
    attentions = [m for m in (*model.modules(), *momentum.modules()) if isinstance(m, Projections)]
    assert len(attentions) == 5 * model.config.text_layers
    for maps in attentions:
        for name in ("weight", "bias"):
            places = [kept.of(getattr(m, name)) for m in (maps.query, maps.key, maps.value)]
            for one, other in pairwise(places):
                assert one.storage_offset() + one.numel() == other.storage_offset()


def left(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a run of four steps saves."""
    moments = folder / "checkpoints" / "step_00000004" / "optimizer.safetensors"
    return weights(folder, 4) | load_file(moments)


def assert_same(one: Path, other: Path) -> None:
    """Two runs with the same losses and the same bits at their end."""
    want, got = left(one), left(other)
    assert want.keys() == got.keys()
    assert [name for name, tensor in want.items() if not torch.equal(tensor, got[name])] == []
    assert losses(one) == losses(other)


@pytest.mark.slow
def test_a_run_of_one_process_that_stops_and_goes_on(tmp_path: Path) -> None:
    """With two micro-batches a step and one step that is refused."""
    data, train = write_shards(tmp_path / "data", 32), {"micro_batch_size": 4}
    cast, kept = (
        write_config(tmp_path, name, data, precision="bf16", train=train)
        for name in ("cast", "kept")
    )
    words = ["--follow", "--poison", 1]
    succeed("tests.train_many", [*words, "--cast", cast], tmp_path / "log")
    ((code, said),) = run("tests.train_many", [*words, "--terminate", 2, kept], tmp_path / "log")
    assert code == 75, said
    succeed("tests.train_many", [*words, kept], tmp_path / "log")
    assert_same(tmp_path / "cast", tmp_path / "kept")


@pytest.mark.slow
@pytest.mark.xdist_group("zero")
def test_runs_of_two_processes_under_zero(tmp_path: Path) -> None:
    """Without ZeRO, and with its first stage, whose gather writes the weights."""
    data = write_shards(tmp_path / "data", 32)
    for name, words in (("cast", ["--cast"]), ("kept", [])):
        configs = [
            write_config(
                tmp_path, f"{name}{stage}", data, precision="bf16", deepspeed={"stage": stage}
            )
            for stage in (0, 1)
        ]
        words = ["--poison", 2, *words, *configs]
        succeed("tests.train_many", words, tmp_path / "log", ranks=2)
    for stage in (0, 1):
        assert_same(tmp_path / f"cast{stage}", tmp_path / f"kept{stage}")
