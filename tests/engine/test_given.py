"""Settings of calls in Python: each is refused by its name, before any picture is encoded."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import engine
from engine.capfilt.config import RANGES as CLEANING
from engine.config import ConfigError
from engine.given import GIVEN
from engine.inference import LoadedBlip
from engine.ranges import RANGES
from tests.loaded import loaded_blip
from tests.shards import picture

pytestmark = pytest.mark.xdist_group("inference")


@pytest.fixture(scope="module")
def blip() -> LoadedBlip:
    return loaded_blip()


def untouched() -> Iterator[bytes]:
    """Pictures that nobody may ask for."""
    raise AssertionError("a picture was read")
    yield b""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0: must be at least 1"),
        ({"num_beams": 10**30}, f"num_beams is {10**30}: must be at least 1 and at most 100"),
        ({"num_beams": 2.5}, "num_beams is 2.5: must be a whole number, at least 1"),
        ({"num_beams": None}, "num_beams is None: must be a whole number, at least 1"),
        ({"num_beams": "3"}, "num_beams is '3': must be a whole number, at least 1"),
        ({"top_p": 0}, "top_p is 0: must be above 0 and at most 1"),
        ({"top_p": math.nan}, "top_p is nan: must be above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is 1.5: must be above 0 and at most 1"),
        ({"top_p": np.ones((2, 2))}, "top_p is array([[1., 1.], [1., 1.]]): must be a number, abo"),
        ({"max_length": 0}, "max_length is 0: must be at least 1"),
        (
            {"max_length": 65},
            "max_length is 65: must be above the prompt's 4 tokens and at most the",
        ),
        ({"prompt": None}, "prompt is NoneType: one text for all pictures"),
        ({"min_length": -1}, "min_length is -1: must be at least 0"),
        ({"min_length": 21}, "min_length 21 is more than max_length 20"),
        ({"batch_size": 0}, "batch_size is 0: must be at least 1"),
        ({"batch_size": True}, "batch_size is True: must be a whole number, at least 1"),
    ],
)
def test_captions_name_the_setting(blip: LoadedBlip, settings: Any, message: str) -> None:
    with pytest.raises(ValueError) as problem:
        blip.caption(untouched(), **settings)
    assert str(problem.value).startswith(message)
    assert "\n" not in str(problem.value)


def test_numbers_of_numpy_are_numbers(blip: LoadedBlip) -> None:
    given = {"num_beams": np.int64(2), "max_length": np.int32(9), "batch_size": np.uint8(1)}
    plain = {name: int(value) for name, value in given.items()}
    assert blip.caption(picture(0), **given) == blip.caption(picture(0), **plain)
    assert blip.caption(picture(0), top_p=np.float32(0.5), max_length=9)


def test_features_and_matches_too(blip: LoadedBlip) -> None:
    for use in (
        lambda: blip.embed_texts("a dog", batch_size=0),
        lambda: blip.embed_images(untouched(), batch_size=0),
        lambda: blip.match(untouched(), "a dog", batch_size=0),
    ):
        with pytest.raises(
            ConfigError, match="^batch_size is 0: must be at least 1 and at most 100000$"
        ):
            use()
    assert blip.embed_texts(["a dog", "a cat"], batch_size=np.int64(1)).shape == (2, 16)
    with pytest.raises(ConfigError, match="^layer is 0.0: must be 0 to "):
        blip.attention_map(picture(0), "a dog", layer=0.0)
    with pytest.raises(ConfigError, match="^texts is NoneType: must be one or many texts$"):
        blip.match(picture(0), None)


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:x", "cpu:1", "", None])
def test_a_device_is_known(device: Any) -> None:
    with pytest.raises(ConfigError, match=f"^device is {str(device)!r}: choose auto, cpu or cuda$"):
        engine.load("nowhere", device=device)


def test_a_gpu_is_there() -> None:
    number = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"^device is cuda:{number} but "):
        engine.load("nowhere", device=f"cuda:{number}")
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        engine.load("nowhere", device=torch.device("cpu"))


def test_python_and_command_lines_have_one_range() -> None:
    for ranges, section in ((RANGES, "evaluate."), (CLEANING, "caption.")):
        shared = {key for key in ranges if key.removeprefix(section) in GIVEN}
        assert len(shared) >= 3
        for key in shared - {"evaluate.shortlist"}:
            assert ranges[key] is GIVEN[key.removeprefix(section)], key
