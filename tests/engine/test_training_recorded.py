"""Passes that are recorded train what passes that are not do; on a GPU they are replayed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from engine.data.shard_writer import ShardWriter
from engine.training.objectives import Pretraining
from engine.training.recorded import RecordedPasses
from engine.training.step import lacked_room
from engine.training.tuning import Captioning
from tests.forked import run, succeed
from tests.runs import weights, write_config
from tests.shards import picture, write_shards

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_add_up_for_every_shape(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).to(device)
    plain = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3)).to(device)
    plain.load_state_dict(network.state_dict())
    recorded = RecordedPasses(network.parameters())

    def passes(placed: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        loss = (network(placed["x"]) * placed["scale"]).square().sum()
        loss.backward()
        return (loss.detach(),)

    for step in range(5):
        plain.zero_grad()
        for number, rows in enumerate((4, 7, 4)):
            given = {"x": torch.randn(rows, 6), "scale": torch.tensor(1.0 + step)}
            torch.manual_seed(100 * step + rows)
            (loss,) = recorded.run(rows, given, passes, first=number == 0)
            torch.manual_seed(100 * step + rows)
            x, scale = given["x"].to(device), given["scale"].to(device)
            expected = (plain(x) * scale).square().sum()
            expected.backward()
            torch.testing.assert_close(loss, expected.detach())
        for one, other in zip(network.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        # As DeepSpeed leaves them after a step: some moved to one place of its own, all let go.
        bucket = torch.empty(6 * 5, device=device)
        for parameter in network.parameters():
            parameter.grad.data = bucket[: parameter.numel()].view_as(parameter)
        network.zero_grad(set_to_none=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [
        [("apart", []), ("recorded", ["--record"])],
        # The host then launches the next step before it knows of the refusal.
        [("inside", ["--follow"]), ("ahead", ["--follow", "--record"])],
    ],
)
def test_a_run_ends_with_the_same_bits(tmp_path: Path, ways: list[tuple[str, list[str]]]) -> None:
    """With two micro-batches a step, one step that is refused, and texts of several lengths."""
    data, kept = write_shards(tmp_path / "data", 32), []
    for name, words in ways:
        train = {"micro_batch_size": 4, "log_every": 4}
        config = write_config(tmp_path, name, data, train=train)
        succeed("tests.train_many", ["--poison", 2, *words, config], tmp_path / "log")
        moments = tmp_path / name / "checkpoints" / "step_00000004" / "optimizer.safetensors"
        kept.append(weights(tmp_path / name, 4) | load_file(moments))
    assert kept[0].keys() == kept[1].keys()
    for name, want in kept[0].items():
        assert torch.equal(kept[1][name], want), name


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_two_ranks_end_with_the_same_bits(tmp_path: Path, stage: int) -> None:
    """Recorded passes reduce nothing; gradients are reduced after them."""
    data, kept = write_shards(tmp_path / "data", 32), []
    for name, graph, words in (("apart", None, []), ("recorded", True, ["--record"])):
        train = {"micro_batch_size": 2, "negative_group_size": 2, "cuda_graph": graph}
        sections = {"train": train, "deepspeed": {"stage": stage}}
        config = write_config(tmp_path, name, data, **sections)
        succeed("tests.train_many", ["--poison", 2, *words, config], tmp_path / "log", ranks=2)
        moments = tmp_path / name / "checkpoints" / "step_00000004" / "optimizer.safetensors"
        kept.append(weights(tmp_path / name, 4) | load_file(moments))
    for name, want in kept[0].items():
        assert torch.equal(kept[1][name], want), name


@pytest.mark.slow
def test_steps_whose_wrong_texts_do_not_fit_are_taken_again(tmp_path: Path) -> None:
    data, kept, said = tmp_path / "data", [], ""
    with ShardWriter(data, "pairs", 32) as writer:
        for number in range(32):
            words = " ".join(["red", "bar", "on", "a", "hill"][: 1 + number % 5])
            writer.add(f"{number}", picture(number), "png", words, {"uid": f"{number}", "url": ""})
    ways = (("room", []), ("tight", ["--tight"]), ("ahead", ["--tight", "--follow"]))
    # One of two ranks has room where the other one has none.
    for name, words in (*ways, ("ranks", ["--tight"])):
        ranks = 2 if name == "ranks" else 1
        train = {"log_every": 4, "cuda_graph": True, "micro_batch_size": 8 // ranks}
        sections = {"train": train, "deepspeed": {"stage": 1}}
        config, log = write_config(tmp_path, name, data, **sections), tmp_path / "log"
        said = succeed("tests.train_many", ["--record", *words, config], log, ranks)[0]
        kept.append(weights(tmp_path / name, 4))
        metrics = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["skipped_steps"] for line in metrics] == [0] * len(metrics)
        assert said.count("no room for") == (name != "room")
    for name, want in kept[0].items():
        for got in kept[1:]:
            torch.testing.assert_close(got[name], want, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("losses", "lacked"),
    [
        ([[1.0, 1.0, 1.0], [1.0, torch.nan, 1.0]], True),
        # A picture that is not finite, a loss without bounds, and a gradient alone.
        ([[torch.nan, torch.nan, torch.nan], [1.0, 1.0, 1.0]], False),
        ([[1.0, 1.0, torch.inf], [1.0, 1.0, 1.0]], False),
        ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], False),
    ],
)
def test_only_a_step_that_lacked_room_is_taken_again(losses: list, lacked: bool) -> None:
    found = [torch.tensor(of_part, dtype=torch.float64) for of_part in losses]
    assert lacked_room(Pretraining.losses, found) is lacked
    # An objective that draws nothing.
    assert not lacked_room(Captioning.losses, [of_part[1:2] for of_part in found])


def test_a_cpu_refuses_to_record(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, "run", write_shards(tmp_path / "data", 8), train={"cuda_graph": True}
    )
    ((code, said),) = run("tests.train_many", [config], tmp_path / "log")
    assert code == 2
    assert "train.cuda_graph: it needs an NVIDIA GPU, and the run is on a cpu" in said
