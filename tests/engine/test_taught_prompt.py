"""What captions begin with: as in training, and another prompt than was taught is told of."""

from pathlib import Path
from typing import Any

import pytest
import torch

import engine
from blip_model import Blip
from engine import checkpoint
from tests.shards import picture
from tests.tiny import spread, tiny_config


def weights(folder: Path, **run: Any) -> Path:
    """Weights as a run saves them."""
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    state = {"network": vars(model.config), "config": run}
    checkpoint.write_as(folder / "weights", 0, {"model": model.state_dict()}, state)
    return folder / "weights"


def test_another_prompt_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = weights(tmp_path, task="caption", evaluate={"prompt": "a sketch of "})
    blip = engine.load(place, device="cpu")
    blip.caption([picture(0), picture(1)], batch_size=1, max_length=9, prompt="a sketch of")
    assert not caplog.records
    for _ in range(2):
        blip.caption([picture(0), picture(1)], batch_size=1, max_length=9)
    (told,) = caplog.messages
    assert "begin with 'a picture of ', which is not the prompt 'a sketch of '" in told


@pytest.mark.parametrize(
    "run", [{"task": "retrieval", "evaluate": {"prompt": "x"}}, {"evaluate": {"prompt": "x"}}, {}]
)
def test_what_was_taught_no_prompt_takes_any(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, run: dict[str, Any]
) -> None:
    engine.load(weights(tmp_path, **run), device="cpu").caption(picture(0), max_length=9)
    assert not caplog.records


def test_a_prompt_begins_as_the_decoders_texts_and_has_no_end(tmp_path: Path) -> None:
    blip = engine.load(weights(tmp_path), device="cpu")
    whole, _ = blip.tokenizer.encode(["a picture of "], 35)
    ids = blip.prompt_ids("a picture of ", 20)
    assert ids[0, 0] == blip.model.config.bos_token_id != whole[0, 0]
    assert ids[0, 1:].tolist() == whole[0, 1:-1].tolist()


def test_so_many_tokens_of_a_text_count_as_in_training(tmp_path: Path) -> None:
    blip = engine.load(weights(tmp_path), device="cpu")
    assert blip.encode("antidisestablishmentarianism " * 30)[0].shape == (1, 35)
    assert blip.encode("red " * 40)[0].shape == (1, 32)
