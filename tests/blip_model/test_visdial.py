"""Visual dialogue: packed equals plain, and what is trained of the network."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blip_model.convert.huggingface import RETRIEVER, to_huggingface
from blip_model.convert.shapes import check_shapes
from blip_model.flops import visdial_flops
from blip_model.visdial import BlipVisdial
from tests.tiny import spread, tiny_config, tiny_inputs

CONFIG = tiny_config(vocab_size=400, bos_token_id=398, enc_token_id=399)
PICTURES, EACH = 3, 4


def both(**changes: float) -> tuple[BlipVisdial, BlipVisdial]:
    """The plain and the fast model with the same weights."""
    torch.manual_seed(0)
    plain = BlipVisdial(tiny_config(**vars(CONFIG) | changes), plain=True)
    spread(plain)
    fast = BlipVisdial(plain.config)
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def batch() -> tuple[torch.Tensor, ...]:
    """Three pictures with four dialogues of several lengths each, the first of them right."""
    image, _, _ = tiny_inputs(PICTURES)
    _, ids, mask = tiny_inputs(PICTURES * EACH, tokens=9, seed=1, config=CONFIG)
    return image, ids, mask, torch.tensor([1, 0, 0, 0] * PICTURES)


@pytest.mark.parametrize("capacity", [None, 100])
def test_packed_losses_and_gradients_are_the_plain_ones(capacity: int | None) -> None:
    plain, fast = both()
    *inputs, label = batch()
    losses = [m(*inputs, label=label, capacity=capacity)["loss_visdial"] for m in (plain, fast)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    theirs = dict(plain.named_parameters())
    for name, parameter in fast.named_parameters():
        if "_proj." in name:
            assert parameter.grad is None and theirs[name].grad is None
            continue
        scale = theirs[name].grad.abs().max().clamp(min=1e-3)
        assert (parameter.grad - theirs[name].grad).abs().max() / scale < 2e-5, name


def test_every_dialogue_is_read_with_its_own_picture() -> None:
    _, fast = both()
    image, ids, mask, label = batch()
    before = fast(image, ids, mask, label=label)["loss_visdial"]
    moved = fast(3 * image.roll(1, 0), ids, mask, label=label)["loss_visdial"]
    assert (moved - before).abs() > 1e-5
    order = torch.arange(len(ids)).view(PICTURES, EACH).roll(1, 0).flatten()
    along = fast(image.roll(1, 0), ids[order], mask[order], label=label)["loss_visdial"]
    torch.testing.assert_close(along, before)
    assert fast.temp is None


def test_layers_that_run_again_give_the_same_gradients() -> None:
    _, model = both(dropout=0.2, vision_drop_path=0.3)
    (*inputs, label), found = batch(), []
    trained = [p for name, p in model.named_parameters() if "_proj." not in name]
    for again in (False, True):
        model.recompute("all" if again else "norms")
        torch.manual_seed(5)
        loss = model(*inputs, label=label)["loss_visdial"]
        found.append([loss.detach(), *torch.autograd.grad(loss, trained)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_work_is_the_count_of_its_formula() -> None:
    plain, fast = both()
    image, ids, mask, label = batch()
    counted = []
    for model in (plain, fast):
        counter = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), counter, torch.no_grad():
            model(image, ids, torch.ones_like(mask), label=label)
        counted.append(counter.get_total_flops() / PICTURES)
    formula = visdial_flops(CONFIG, ids.shape[1], EACH) / 3
    # The formula computes every token in the last layer, the fast way one of each text.
    assert 0.75 * formula < counted[1] < formula < counted[0]


def test_its_weights_are_a_retrievers_to_other_formats() -> None:
    weights = both()[1].state_dict()
    check_shapes(weights, CONFIG)
    split, left = to_huggingface(weights)
    assert list(split) == [RETRIEVER] and not left
