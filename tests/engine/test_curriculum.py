"""Small pictures and short texts first: what holds is a function of the step, also on resume."""

import json
from pathlib import Path

import pytest
import torch

from blip_model.blip import Blip
from blip_model.config import preset
from blip_model.positions import resize_positions
from blip_model.vit import accept_sizes
from engine.config import ConfigError
from engine.curriculum import CurriculumStage, stage_at
from engine.data.loader import build_loader
from engine.data.open_source import open_source
from engine.data.tokenizer import open_tokenizer
from tests.engine.test_data_batches import run_config
from tests.forked import succeed
from tests.runs import losses, metrics, weights, write_config
from tests.shards import write_shards

STAGES = [
    {"until_step": 1, "image_size": 16, "max_tokens": 4},
    {"until_step": 3, "image_size": 24},
]


def test_a_step_belongs_to_the_first_stage_that_is_not_over() -> None:
    stages = [CurriculumStage(**stage) for stage in STAGES]
    assert [stage_at(stages, step).image_size for step in range(5)] == [16, 24, 24, None, None]
    assert stage_at([], 7).max_tokens is None


def test_batches_have_the_size_of_their_step(tmp_path: Path) -> None:
    stages = [CurriculumStage(**stage) for stage in STAGES]
    config = run_config(write_shards(tmp_path, 16), curriculum=stages)
    source, tokenizer = open_source(config.data.train), open_tokenizer(None)
    place = {"rank": 0, "world_size": 1, "start_step": 0, "stop_step": 4}
    batches = list(build_loader(config, source, tokenizer, **place))
    assert [batch.image.shape[-1] for batch in batches] == [16, 24, 24, 32]
    assert batches[0].input_ids.shape[1] == 4 < batches[1].input_ids.shape[1]


def test_a_smaller_picture_meets_resized_positions() -> None:
    """The same states and gradients as from a network made for that size with those positions."""
    torch.manual_seed(0)
    large, small = (Blip(preset("tiny", image_size=side)).visual_encoder for side in (32, 16))
    own = {k: v for k, v in large.state_dict().items() if k != "pos_embed"}
    resized = resize_positions(large.pos_embed.detach(), 5)
    small.load_state_dict(own | {"pos_embed": resized})
    image = torch.randn(3, 3, 16, 16)
    with pytest.raises(ValueError, match=r"the network takes \[B, 3, 32, 32\]"):
        large(image)
    accept_sizes(large, {16})
    states, expected = large(image), small(image)
    assert torch.equal(states, expected)
    assert torch.equal(large.first_state(image), small.first_state(image))
    states.square().sum().backward()
    expected.square().sum().backward()
    through, large.pos_embed.grad = large.pos_embed.grad.clone(), None
    resize_positions(large.pos_embed, 5).backward(small.pos_embed.grad)
    assert torch.allclose(through, large.pos_embed.grad, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="the network takes"):
        large(torch.randn(3, 3, 24, 24))


def test_a_run_goes_on_in_the_middle_of_a_stage(tmp_path: Path) -> None:
    data = write_shards(tmp_path / "data", 48)
    stages = json.dumps(STAGES)
    whole, parts = (write_config(tmp_path, name, data) for name in ("whole", "parts"))
    succeed("launch.pretrain", ["--config", whole, "--data.curriculum", stages], tmp_path / "log")
    for steps in (2, 4):
        words = ["--config", parts, "--data.curriculum", stages, "--train.max_steps", steps]
        succeed("launch.pretrain", words, tmp_path / "log")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, other = (weights(tmp_path / name, 4) for name in ("parts", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert {line["mfu"] for line in metrics(tmp_path / "whole")} == {None}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"until_step": 0}], "stage 0: until_step 0 must be above 0"),
        ([{"until_step": 5}, {"until_step": 5}], "stage 1: until_step 5 must be above 5"),
        ([{"until_step": 5, "image_size": 20}], "20 is not a multiple of the patch of 8"),
        ([{"until_step": 5, "max_tokens": 31}], "31 must be from 3 to data.max_tokens 30"),
    ],
)
def test_stages_that_make_no_sense_are_refused(stages: list, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(Path("unused"), curriculum=[CurriculumStage(**stage) for stage in stages])
