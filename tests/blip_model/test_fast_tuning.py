"""Fine-tuning steps that do less work equal their plain definitions: losses and every gradient."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from blip_model.blip import Blip
from blip_model.caption import BlipCaption
from blip_model.flops import caption_flops
from blip_model.momentum import Momentum
from blip_model.retrieval import BlipRetrieval
from tests.tiny import spread, tiny_config, tiny_inputs

COUNT = 6


def both(kind: type[Blip], **changes: object) -> tuple[Blip, Blip]:
    """The plain and the fast model with the same weights."""
    torch.manual_seed(0)
    plain = kind(tiny_config(**changes), plain=True)
    spread(plain)
    fast = kind(tiny_config(**changes))
    fast.load_state_dict(plain.state_dict())
    return plain, fast


def compare(models: tuple[Blip, Blip], parts: tuple, **settings: object) -> None:
    """Losses and gradients of both."""
    losses = [model(*parts, **settings) for model in models]
    gradients = []
    for model, mine in zip(models, losses, strict=True):
        # Unevenly, so that no loss can stand for another.
        sum((1.0 + 0.7 * number) * loss for number, loss in enumerate(mine.values())).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for name, loss in losses[0].items():
        torch.testing.assert_close(losses[1][name], loss, rtol=1e-6, atol=1e-6, msg=name)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        scale = gradient.abs().max().clamp(min=1e-3)
        assert (gradients[1][name] - gradient).abs().max() / scale < 2e-5, name


@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize("prompt_length", [0, 1, 3])
def test_captioning(prompt_length: int, group_size: int | None) -> None:
    parts = tiny_inputs(COUNT, tokens=9)
    compare(both(BlipCaption), parts, prompt_length=prompt_length, group_size=group_size)


def test_a_caption_that_ends_with_its_prompt_is_not_scored() -> None:
    _, fast = both(BlipCaption)
    image, ids, mask = tiny_inputs(2, tokens=9)
    mask[1, 4:] = 0
    both_rows = fast(image, ids, mask, prompt_length=4)["loss_lm"]
    first = fast(image[:1], ids[:1], mask[:1], prompt_length=4)["loss_lm"]
    torch.testing.assert_close(both_rows, first)
    compare(both(BlipCaption), (image, ids, mask), prompt_length=4, group_size=1)


def test_the_work_of_captioning_is_the_count_of_its_formula() -> None:
    plain, fast = both(BlipCaption)
    image, ids, mask = tiny_inputs(COUNT, tokens=9)
    counts = []
    for model in (plain, fast):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(image, ids, torch.ones_like(mask), prompt_length=4)
        counts.append(counter.get_total_flops() / COUNT)
    # Forward only: a third. The plain head sees all places but the last, the prompt's too.
    assert counts[1] == pytest.approx(caption_flops(fast.config, 9, 4) / 3, rel=1e-3)
    assert counts[0] > 1.3 * counts[1]


@pytest.mark.parametrize("group_size", [None, 3])
def test_retrieval(group_size: int | None) -> None:
    models = both(BlipRetrieval)
    momentum = Momentum(models[0], queue_size=5, with_ids=True)
    parts = tiny_inputs(COUNT, tokens=9)
    ids = torch.tensor([7, 7, 8, 9, 7, 10])
    settings = {"alpha": 0.4, "group_size": group_size, "seed": 3, "image_id": ids}
    compare(models, (*parts, momentum.features(*parts)), **settings)


@pytest.mark.parametrize("kind", [BlipCaption, BlipRetrieval])
def test_dropout_acts_on_the_fast_step_as_on_the_plain_one(kind: type[Blip]) -> None:
    """Masks cannot be shared between passes of other shapes: means and spreads are compared."""
    plain, fast = both(kind, dropout=0.2)
    parts = tiny_inputs(COUNT, tokens=9)
    settings = {}
    if kind is BlipRetrieval:
        momentum = Momentum(plain, queue_size=5, with_ids=True)
        rows = torch.arange(COUNT)
        negatives = ((rows + 1) % COUNT, (rows + 2) % COUNT)
        settings = {"alpha": 0.4, "negatives": negatives, "image_id": rows}
        settings["momentum"] = momentum.eval().features(*parts)
    drawn = []
    for model in (plain, fast):
        with torch.no_grad():
            seeds = [torch.manual_seed(seed) and model(*parts, **settings) for seed in range(60)]
        drawn.append(torch.stack([torch.stack([*losses.values()]) for losses in seeds]))
    error = (drawn[0].var(0) / 60 + drawn[1].var(0) / 60).sqrt()
    assert ((drawn[0].mean(0) - drawn[1].mean(0)).abs() <= 4 * error + 1e-6).all()
    ratio = drawn[1].std(0) / drawn[0].std(0)
    assert ((ratio > 0.5) & (ratio < 2)).all()
