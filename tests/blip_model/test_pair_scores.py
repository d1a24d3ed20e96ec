"""Scores of many texts a picture are those of one pair at a time."""

import pytest
import torch

from blip_model import Blip
from blip_model.pair_scores import matching_logits, similarities
from tests.tiny import spread, tiny_config, tiny_inputs


@pytest.fixture(scope="module")
def model() -> Blip:
    torch.manual_seed(0)
    model = Blip(tiny_config()).eval()
    spread(model)
    return model


@pytest.mark.parametrize("counts", [[1, 1, 1], [3, 1, 2], [0, 4, 1], [2, 0, 0]])
@torch.no_grad()
def test_scores_are_those_of_single_pairs(model: Blip, counts: list[int]) -> None:
    image, _, _ = tiny_inputs(3)
    _, ids, mask = tiny_inputs(sum(counts), seed=1)
    states = model.encode_image(image)
    owner = [picture for picture, count in enumerate(counts) for _ in range(count)]
    texts = torch.tensor(counts)
    logits = matching_logits(model, ids, mask, states, texts)
    cosines = similarities(model, ids, mask, states, texts)
    assert logits.shape == (len(owner), 2)
    for row, picture in enumerate(owner):
        one = slice(row, row + 1)
        length = int(mask[row].sum())
        alone = (ids[one, :length], mask[one, :length])
        expected = model.match(*alone, states[picture : picture + 1])
        torch.testing.assert_close(logits[one], expected, rtol=0, atol=1e-5)
        text = model.text_feature(model.encode_text(*alone))
        image_feature = model.image_feature(states[picture : picture + 1])
        cosine = (text * image_feature).sum(1)
        torch.testing.assert_close(cosines[one], cosine, rtol=0, atol=1e-5)
    assert logits.std() > 1e-3


@torch.no_grad()
def test_a_picture_is_projected_once_a_layer(model: Blip) -> None:
    image, _, _ = tiny_inputs(2)
    _, ids, mask = tiny_inputs(6, seed=1)
    states, seen = model.encode_image(image), []
    for layer in model.text_encoder.encoder.layer:
        key = layer.crossattention.self.key
        key.register_forward_hook(lambda _, given, __: seen.append(given[0].shape))
    matching_logits(model, ids, mask, states, torch.tensor([3, 3]))
    assert seen == [states.shape] * len(model.text_encoder.encoder.layer)
