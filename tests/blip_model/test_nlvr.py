"""Two pictures and a sentence: what a MED makes of them, memory, and work."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blip_model import Blip
from blip_model.blip import with_first_token
from blip_model.convert.nlvr import with_two_attentions
from blip_model.flops import nlvr_flops
from blip_model.nlvr import BlipNlvr
from tests.tiny import spread, tiny_config, tiny_inputs

COUNT = 3
WORDS = {"vocab_size": 300, "bos_token_id": 298, "enc_token_id": 299}


def two_pictures(**changes: object) -> tuple[BlipNlvr, tuple[torch.Tensor, ...]]:
    """A network, and images [B, 2, 3, H, W], ids and mask for it."""
    torch.manual_seed(0)
    model = BlipNlvr(tiny_config(**WORDS, **changes))
    spread(model)
    left, ids, mask = tiny_inputs(COUNT, config=model.config)
    right = tiny_inputs(COUNT, seed=1, config=model.config)[0]
    return model, (torch.stack([left, right], 1), ids, mask)


def test_two_equal_pictures_are_to_a_started_network_what_one_is_to_its_med() -> None:
    model, (images, ids, mask) = two_pictures()
    med = Blip(model.config)
    spread(med)
    weights = with_two_attentions(med.state_dict())
    theirs = {n: t for n, t in weights.items() if n in model.state_dict()}
    model.load_state_dict({**model.state_dict(), **theirs})
    with torch.no_grad():
        states = model.encode_image(images[:, 0])
        ids = with_first_token(ids, model.config.enc_token_id)
        expected = med.text_encoder(ids, mask, states)
        torch.testing.assert_close(model.text_encoder(ids, mask, states, states), expected)
        other = model.encode_image(images[:, 1])
        mixed = model.text_encoder(ids, mask, states, other)
        assert (mixed - expected).abs().max() > 0.01


@torch.no_grad()
def test_each_picture_has_weights_of_its_own_and_padding_none() -> None:
    model, (images, ids, mask) = two_pictures(text_layers=7)
    logits = model.judge(images, ids, mask)
    assert logits.shape == (COUNT, 2)
    assert (model.judge(images.flip(1), ids, mask) - logits).abs().max() > 1e-3
    torch.testing.assert_close(model.judge(images, ids + 7 * (1 - mask), mask), logits)
    for row in range(COUNT):
        alone = model.judge(images[row : row + 1], ids[row : row + 1], mask[row : row + 1])
        torch.testing.assert_close(alone, logits[row : row + 1])


def test_layers_that_run_again_give_the_same_gradients() -> None:
    model, parts = two_pictures(text_layers=7, dropout=0.2, vision_drop_path=0.3)
    label, found = torch.tensor([0, 1, 1]), []
    for again in (False, True):
        model.recompute("all" if again else "norms")
        torch.manual_seed(5)
        loss = model(*parts, label=label)["loss_nlvr"]
        found.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_work_is_the_count_of_its_formula() -> None:
    model, (images, ids, mask) = two_pictures(text_layers=8)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.judge(images, ids, torch.ones_like(mask))
    formula = nlvr_flops(model.config, ids.shape[1]) / 3
    assert counter.get_total_flops() / COUNT == pytest.approx(formula, rel=1e-3)
