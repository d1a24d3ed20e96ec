"""ZeRO stages, ranks and accumulation change where things are, not what comes out."""

from pathlib import Path

import pytest
import torch

from tests.forked import succeed
from tests.runs import losses, metrics, weights, write_config
from tests.shards import write_shards

STAGES = (0, 1, 2, 3)
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run under every stage on one and two processes, and with accumulation."""
    folder = tmp_path_factory.mktemp("stages")
    data = write_shards(folder / "data", 48)
    # With settings of DeepSpeed's own a process alone has ZeRO too.
    given = {"config": str(folder / "deepspeed.json")}
    (folder / "deepspeed.json").write_text("{}")
    for ranks in (1, 2):
        configs = [
            write_config(folder, f"ranks{ranks}_stage{s}", data, deepspeed={"stage": s} | given)
            for s in STAGES
        ]
        parts = {"micro_batch_size": 4}
        if ranks == 1:
            # Before stage 3, which puts a linear map of its own in the place of PyTorch's for good:
            # its sums are of another order.
            configs.insert(0, write_config(folder, "alone", data, deepspeed={"stage": 1}))
            name, zero = "accumulated_stage", {"stage": 1} | given
            configs.append(write_config(folder, f"{name}0", data, train=parts))
            configs.append(write_config(folder, f"{name}1", data, train=parts, deepspeed=zero))
            again = {"train": {"activation_checkpointing": "all"}}
            for stage in (2, 3):
                section = {"deepspeed": {"stage": stage} | given}
                configs.append(
                    write_config(folder, f"again_stage{stage}", data, **again, **section)
                )
            bf16 = {"precision": "bf16"}
            configs.append(write_config(folder, "bf16", data, **bf16))
        succeed("tests.train_many", configs, folder / "log", ranks)
    return folder


OTHERS = [f"ranks{r}_stage{s}" for r in (1, 2) for s in STAGES] + [
    "accumulated_stage0",
    "accumulated_stage1",
    "again_stage2",
    "again_stage3",
]


@pytest.mark.xdist_group("stages")
@pytest.mark.parametrize("name", OTHERS)
def test_losses_and_weights_equal_those_of_one_process(trained: Path, name: str) -> None:
    expected, got = losses(trained / "ranks1_stage0"), losses(trained / name)
    assert set(got) == {1, 2, 3, 4}
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=TOLERANCE), step
    reference, ours = weights(trained / "ranks1_stage0", 4), weights(trained / name, 4)
    assert set(ours) == set(reference)
    for key, tensor in reference.items():
        if key.endswith(("self.key.bias", "attn.qkv.bias")):
            # The gradient of a key's bias is rounding noise, which AdamW turns into whole steps.
            assert (ours[key] - tensor).abs().max() <= 2 * 4e-3, key
        else:
            torch.testing.assert_close(ours[key], tensor, rtol=TOLERANCE, atol=TOLERANCE, msg=key)


@pytest.mark.xdist_group("stages")
def test_a_process_alone_replicates(trained: Path) -> None:
    """Whose order of sums is another than ZeRO's."""
    plain, alone = (weights(trained / name, 4) for name in ("ranks1_stage0", "alone"))
    assert all(torch.equal(alone[name], tensor) for name, tensor in plain.items())


@pytest.mark.xdist_group("stages")
def test_the_momentum_encoders_follow_after_the_step(trained: Path) -> None:
    tensors = weights(trained / "ranks2_stage3", 4)
    online = tensors["visual_encoder.blocks.0.mlp.fc1.weight"]
    follower = tensors["visual_encoder_m.blocks.0.mlp.fc1.weight"]
    first = weights(trained / "ranks1_stage0", 4)["visual_encoder_m.blocks.0.mlp.fc1.weight"]
    assert not torch.equal(online, follower)
    torch.testing.assert_close(follower, first, rtol=1e-5, atol=1e-6)


@pytest.mark.xdist_group("stages")
def test_bf16_trains(trained: Path) -> None:
    lines = metrics(trained / "bf16")
    fp32 = losses(trained / "ranks1_stage0")
    assert lines[-1]["skipped_steps"] == 0
    for line in lines:
        assert line["loss_lm"] == pytest.approx(fp32[line["step"]][2], rel=0.02)


@pytest.mark.xdist_group("stages")
def test_a_logged_step_has_the_promised_keys(trained: Path) -> None:
    promised = (
        "step samples_seen loss_itc loss_itm loss_lm lr temperature images_per_second "
        "data_wait_fraction mfu skipped_steps bad_samples eta_seconds"
    )
    line = metrics(trained / "ranks2_stage2")[-1]
    assert " ".join(line) == promised
    assert line["samples_seen"] == 32
    assert line["mfu"] is None
