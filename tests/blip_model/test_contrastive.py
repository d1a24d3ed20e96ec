"""Contrast alone: the symmetric cross-entropy, group by group, and what it leaves untouched."""

import pytest
import torch

from blip_model.contrastive import BlipContrast
from blip_model.flops import contrast_flops, retrieval_flops
from tests.tiny import spread, tiny_config, tiny_inputs

COUNT = 6


@pytest.fixture(scope="module")
def model() -> BlipContrast:
    torch.manual_seed(0)
    model = BlipContrast(tiny_config())
    spread(model)
    return model


def by_hand(model: BlipContrast, rows: slice) -> torch.Tensor:
    """Mean of -log of the right pair's share among its picture's and among its text's pairs."""
    image, ids, mask = (part[rows] for part in tiny_inputs(COUNT))
    pictures = model.image_feature(model.encode_image(image))
    texts = model.text_feature(model.encode_text(ids, mask))
    odds = (pictures @ texts.T / model.temp).exp()
    right = odds.diagonal()
    return -((right / odds.sum(1)).log().mean() + (right / odds.sum(0)).log().mean()) / 2


def test_the_loss_is_the_definition(model: BlipContrast) -> None:
    with torch.no_grad():
        found = model(*tiny_inputs(COUNT))
        assert found.keys() == {"loss_itc"}
        torch.testing.assert_close(found["loss_itc"], by_hand(model, slice(0, COUNT)))


def test_groups_do_not_see_each_other(model: BlipContrast) -> None:
    with torch.no_grad():
        found = model(*tiny_inputs(COUNT), group_size=3)["loss_itc"]
        halves = by_hand(model, slice(0, 3)), by_hand(model, slice(3, COUNT))
        torch.testing.assert_close(found, sum(halves) / 2)
        assert not torch.isclose(found, by_hand(model, slice(0, COUNT)))


def test_only_both_encoders_learn(model: BlipContrast) -> None:
    model.zero_grad()
    model(*tiny_inputs(COUNT))["loss_itc"].backward()
    idle = {name for name, one in model.named_parameters() if one.grad is None}
    assert all(".crossattention." in name or name.startswith("itm_head") for name in idle)
    assert model.temp.grad is not None and model.vision_proj.weight.grad.abs().sum() > 0


def test_it_is_less_work() -> None:
    config = tiny_config()
    assert 0 < contrast_flops(config, 10) < retrieval_flops(config, 10) / 2
