"""Scores of stored pairs in the experiment are those of any other way to ask for them."""

from pathlib import Path

import pytest
import torch

from blip_model import Blip
from engine import checkpoint, load
from engine.ablation.scoring import score_shards
from engine.config import RunConfig
from tests.shards import caption, picture, write_shards
from tests.tiny import spread, tiny_config


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_stored_pairs_are_scored_as_pictures_and_texts_are(tmp_path: Path, precision: str) -> None:
    torch.manual_seed(2)
    model = Blip(tiny_config())
    spread(model)
    state = {"network": vars(tiny_config())}
    checkpoint.write_as(tmp_path / "model", 0, {"model": model.state_dict()}, state)
    write_shards(tmp_path / "data", 6, 4)
    config = RunConfig(device="cpu", precision=precision)
    found = score_shards(config, tmp_path / "model", tmp_path / "data")

    blip = load(tmp_path / "model", device="cpu", precision=precision)
    expected = blip.match([picture(n) for n in range(6)], [caption(n) for n in range(6)])
    assert list(found) == [f"uid-{number}" for number in range(6)]
    tolerance = {"fp32": 1e-5, "bf16": 5e-3}[precision]
    torch.testing.assert_close(
        torch.tensor([itm for itm, _ in found.values()]), expected, rtol=0, atol=tolerance
    )
