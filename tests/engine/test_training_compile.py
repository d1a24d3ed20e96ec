"""A run whose passes are compiled: the same training, by DeepSpeed's stages that allow it."""

from pathlib import Path

import pytest
import torch

from tests.forked import succeed
from tests.runs import losses, weights, write_config
from tests.shards import write_shards

STAGES = (0, 2)


@pytest.mark.slow
def test_losses_and_weights_equal_those_of_the_plain_run(tmp_path: Path) -> None:
    """Traced whole, without a code generator, which would take minutes."""
    data = write_shards(tmp_path / "data", 32)
    train = {"max_steps": 3, "activation_checkpointing": "vision"}
    configs = [write_config(tmp_path, "plain", data, train={"max_steps": 3})]
    # With settings of DeepSpeed's own a process alone has ZeRO too.
    own = tmp_path / "deepspeed.json"
    own.write_text("{}")
    for stage in STAGES:
        sections = {
            "train": train | {"compile": True},
            "deepspeed": {"stage": stage, "config": str(own)},
        }
        configs.append(write_config(tmp_path, f"compiled{stage}", data, **sections))
    succeed("tests.train_many", ["--programs", "eager", *configs], tmp_path / "log")
    for stage in STAGES:
        expected, got = losses(tmp_path / "plain"), losses(tmp_path / f"compiled{stage}")
        for step, values in expected.items():
            assert got[step] == pytest.approx(values, rel=1e-4), step
        whole = weights(tmp_path / "plain", 3)
        for key, tensor in weights(tmp_path / f"compiled{stage}", 3).items():
            # The gradient of a key's bias is rounding noise, which AdamW turns into whole steps.
            if not key.endswith(("self.key.bias", "attn.qkv.bias")):
                torch.testing.assert_close(tensor, whole[key], rtol=1e-4, atol=1e-4, msg=key)
