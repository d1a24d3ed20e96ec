"""Texts packed into more places than they have tokens: the same losses, gradients and features."""

from functools import partial
from typing import Any

import pytest
import torch

from blip_model import packed_text
from blip_model.blip import Blip
from blip_model.caption import BlipCaption
from blip_model.looking import Looking, own_blocks
from blip_model.med import MedAttention
from blip_model.momentum import Momentum
from blip_model.packing import Packing
from blip_model.pretrain import BlipPretrain
from blip_model.retrieval import BlipRetrieval
from kernels import attention_rows
from tests.tiny import spread, tiny_config, tiny_inputs

GPU = torch.cuda.is_available()
COUNT, TOKENS = 6, 9
CAPACITIES = [0, 5, 40]


def mask_of(lengths: list[int], longest: int) -> torch.Tensor:
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("more", CAPACITIES)
def test_tokens_go_where_they_came_from(more: int) -> None:
    mask = mask_of([2, 5, 1], 5)
    exact, bounded = Packing.of(mask), Packing.of(mask, 8 + more)
    assert len(bounded) == 8 + more
    for name in ("flat", "columns", "rows"):
        assert torch.equal(getattr(bounded, name)[:8], getattr(exact, name)), name
    assert torch.equal(bounded.first, exact.first)
    assert bounded.spare.tolist() == [False] * 8 + [True] * more
    tokens = torch.randn(8 + more, 3, requires_grad=True)
    padded = bounded.pad(tokens)
    assert torch.equal(padded, exact.pad(tokens[:8]))
    assert torch.equal(bounded.pack(padded)[:8], tokens[:8])
    (padded * torch.randn(3, 5, 3)).sum().backward()
    assert (tokens.grad[8:] == 0).all()


@pytest.mark.parametrize("more", CAPACITIES)
def test_joined_parts_are_what_their_masks_joined_would_be(more: int) -> None:
    masks = [mask_of([2, 4], 4), mask_of([1, 1], 4), mask_of([4, 3], 4)]
    exact = Packing.of(torch.cat(masks))
    assert torch.equal(Packing.joined([Packing.of(m) for m in masks]).flat, exact.flat)
    joined = Packing.joined([Packing.of(m, int(m.sum()) + more) for m in masks])
    tokens = torch.randn(len(joined), 3)
    assert torch.equal(joined.pad(tokens), exact.pad(tokens[~joined.spare]))
    assert torch.equal(tokens[joined.first], tokens[~joined.spare][exact.first])
    assert joined.lengths.tolist() == exact.lengths.tolist() == [2, 4, 1, 1, 4, 3]


def test_a_token_too_many_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="out of bounds"):
        Packing.of(mask_of([2, 5, 1], 5), 7)


def losses_and_gradients(kind: type[Blip], capacity: int | None, **more: Any) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = kind(tiny_config())
    spread(model)
    parts, settings = tiny_inputs(COUNT, tokens=TOKENS), {"group_size": 3}
    if kind is BlipCaption:
        settings["prompt_length"] = 2
    else:
        momentum = Momentum(model, queue_size=11, with_ids=kind is BlipRetrieval)
        features = momentum.features(*parts, capacity)
        settings |= {"momentum": features, "alpha": 0.4, "seed": 3}
    if kind is BlipRetrieval:
        settings["image_id"] = torch.arange(COUNT) // 2
    losses = model(*parts, **settings, **more, capacity=capacity)
    sum((1.0 + 0.7 * n) * loss for n, loss in enumerate(losses.values())).backward()
    return [*(loss.detach() for loss in losses.values()), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("kind", [BlipPretrain, BlipRetrieval, BlipCaption])
def test_a_step_is_the_same(kind: type[Blip]) -> None:
    tokens = int(tiny_inputs(COUNT, tokens=TOKENS)[2].sum())
    exact = losses_and_gradients(kind, None)
    for capacity in (tokens, tokens + 5, COUNT * TOKENS):
        same(losses_and_gradients(kind, capacity), exact)


@pytest.mark.parametrize("kind", [BlipPretrain, BlipRetrieval])
def test_wrong_texts_have_the_places_that_they_need(kind: type[Blip]) -> None:
    """All rows draw the longest text; one place too few, and the loss is NaN."""
    parts = tiny_inputs(COUNT, tokens=TOKENS)
    lengths = parts[2].sum(1)
    longest = int(lengths.argmax())
    wrong = torch.full((COUNT,), longest)
    wrong[longest] = (longest + 1) % COUNT
    tokens, capacity = int(lengths[wrong].sum()), int(lengths.sum())
    assert capacity < tokens < COUNT * TOKENS
    settings = {"negatives": (torch.arange(COUNT).roll(1), wrong), "capacity": capacity}
    exact = losses_and_gradients(kind, **settings)
    same(losses_and_gradients(kind, **settings, drawn_capacity=tokens), exact)
    short = losses_and_gradients(kind, **settings, drawn_capacity=tokens - 1)
    assert short[1].isnan()
    assert torch.equal(short[0], exact[0])


@pytest.mark.skipif(GPU, reason="a GPU is here: the interpreter takes its place elsewhere")
@pytest.mark.parametrize("more", [None, 5])
def test_a_step_with_the_kernel_of_texts_is_the_same(
    more: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU runs it, spare places of wrong texts between those of others."""
    capacity = None if more is None else int(tiny_inputs(COUNT, tokens=TOKENS)[2].sum()) + more
    padded = losses_and_gradients(BlipPretrain, capacity)
    kernel = partial(attention_rows, backend="triton")
    monkeypatch.setattr(packed_text, "attention_rows", kernel)
    same(losses_and_gradients(BlipPretrain, capacity), padded)


def test_spare_places_look_at_no_picture() -> None:
    packing = Packing.of(mask_of([2, 4], 4), 9)
    looking = Looking.of((packing,) * 4, torch.tensor([1, 0]), padded=False)
    order, starts = looking.blocks
    assert starts.tolist() == [0, 3 * 2 + 4, 3 * 2 + 4 + 3 * 4 + 2]
    assert order[:10].tolist() == [0, 1, 9, 10, 20, 21, 22, 23, 27, 28]
    assert order[24:].tolist() == [9 * kind + place for kind in range(4) for place in (6, 7, 8)]
    order, starts = own_blocks(packing)
    assert order.tolist() == [*range(9)] and starts.tolist() == [0, 2, 6]


@pytest.mark.skipif(GPU, reason="a GPU is here: the interpreter takes its place elsewhere")
@pytest.mark.parametrize("more", [None, 5])
@pytest.mark.parametrize("kind", [BlipPretrain, BlipRetrieval, BlipCaption])
def test_a_step_with_the_kernel_of_pictures_is_the_same(
    kind: type[Blip], more: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens of no picture are the spare places."""
    capacity = None if more is None else int(tiny_inputs(COUNT, tokens=TOKENS)[2].sum()) + more
    padded = losses_and_gradients(kind, capacity)
    monkeypatch.setattr(MedAttention, "looking", "triton")
    same(losses_and_gradients(kind, capacity), padded)


def same(found: list[torch.Tensor], exact: list[torch.Tensor]) -> None:
    for want, got in zip(exact, found, strict=True):
        assert (want is None) == (got is None)
        if want is not None:
            assert (got - want).abs().max() <= 2e-5 * want.abs().max().clamp(min=1e-3)
