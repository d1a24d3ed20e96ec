"""`engine.load(...).attention_map`: a map a word, of shares that sum to one."""

from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from blip_model import Blip
from blip_model.attention_map import attention_maps
from engine.config import ConfigError
from engine.inference import LoadedBlip
from tests.shards import picture
from tests.tiny import spread, tiny_config, write_model

TEXT = "A photograph of an UNBELIEVABLE t-shirt, café naïve!"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = Blip(tiny_config(text_layers=3))
    spread(model)
    write_model(folder / "both", model)
    captioner = Blip(tiny_config(text_layers=3), text_encoder=False)
    write_model(folder / "captioner", captioner)
    return folder


@pytest.fixture(scope="module")
def blip(folder: Path) -> LoadedBlip:
    return engine.load(folder / "both", device="cpu")


def test_a_word_has_the_maps_of_its_tokens(blip: LoadedBlip) -> None:
    found = blip.attention_map(picture(1), TEXT)
    assert " ".join(found.words) == "a photograph of an unbelievable t-shirt, café naïve"
    assert found.words[5] == "t-shirt,"
    assert found.maps.dtype == np.float32
    assert found.maps.shape == (8, 4, 4)
    assert found.maps.min() >= 0
    assert found.maps.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.whole, found.maps.sum(0))
    assert found.probability == pytest.approx(blip.match(picture(1), TEXT).item(), abs=1e-5)
    ids, mask = blip.encode(TEXT)
    (states,) = blip.states([picture(1)], 1, "encoded")
    (tokens,), _ = attention_maps(blip.model, ids, mask, states)
    ends = np.cumsum([len(blip.tokenizer.encode([word], 35)[0][0]) - 2 for word in found.words])
    assert ends[-1] == len(tokens) - 2
    sums = np.stack([part.sum(0).numpy() for part in np.split(tokens[1:-1], ends[:-1])])
    np.testing.assert_allclose(found.maps, sums / sums.sum(), atol=1e-5)


def test_words_that_are_cut_off_have_no_map(blip: LoadedBlip) -> None:
    found = blip.attention_map(picture(1), " ".join(["unbelievable"] * 40))
    # 33 tokens beside [CLS] and [SEP].
    pieces = len(blip.tokenizer.encode(["unbelievable"], 35)[0][0]) - 2
    assert len(found.words) == -(-33 // pieces) if pieces > 1 else 30
    assert found.maps.sum() == pytest.approx(1, abs=1e-5)


def test_layers_differ_and_are_counted(blip: LoadedBlip) -> None:
    maps = [blip.attention_map(picture(1), "a red dog", layer=n).maps for n in (0, 1, None)]
    assert np.abs(maps[0] - maps[1]).max() > 1e-3
    np.testing.assert_array_equal(maps[1], maps[2])
    with pytest.raises(ConfigError, match="layer is 2: must be 0 to 1"):
        blip.attention_map(picture(1), "a red dog", layer=2)


def test_where_no_look_helps_all_is_zero(blip: LoadedBlip) -> None:
    head = blip.model.itm_head
    kept = head.weight.detach().clone()
    try:
        with torch.no_grad():
            head.weight.zero_()
        assert not blip.attention_map(picture(1), "a red dog").maps.any()
    finally:
        with torch.no_grad():
            head.weight.copy_(kept)


def test_what_cannot_be_mapped_is_one_line(folder: Path, blip: LoadedBlip) -> None:
    for image, text in [([picture(0)], "a"), (picture(0), ["a"])]:
        with pytest.raises(ConfigError, match="one picture and one text"):
            blip.attention_map(image, text)
    with pytest.raises(ConfigError, match="a text is not usable"):
        blip.attention_map(picture(0), " .! ")
    with pytest.raises(ConfigError, match="reads none of its characters"):
        blip.attention_map(picture(0), "\ufffd")
    with pytest.raises(ConfigError, match="cannot retrieve or score"):
        engine.load(folder / "captioner", device="cpu").attention_map(picture(0), "a")
    half = engine.load(folder / "both", device="cpu", precision="bf16")
    try:
        found = half.attention_map(picture(1), "a red dog")
    except ConfigError as error:
        assert 'precision="fp32"' in str(error)
    else:
        assert found.maps.sum() == pytest.approx(1, abs=1e-2)
