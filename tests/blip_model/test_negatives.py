"""Both directions draw hard negatives apart from each other, and retrieval only near ones."""

import pytest
import torch
from torch.nn.functional import normalize

from blip_model.momentum import MomentumFeatures
from blip_model.pretrain import BlipPretrain
from blip_model.retrieval import BlipRetrieval
from tests.tiny import tiny_config

GROUP, GROUPS = 64, 200


def alike() -> torch.Tensor:
    """Unit vectors [B, E] for pictures and texts."""
    generator = torch.Generator().manual_seed(0)
    return normalize(torch.randn(GROUP, 32, generator=generator), dim=1)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_directions_of_pretraining_draw_apart(seed: int) -> None:
    features, nothing = alike(), torch.empty(32, 0)
    momentum = MomentumFeatures(features, features, nothing, nothing)
    pictures, texts = BlipPretrain(tiny_config()).draw(features, features, momentum, seed=seed)
    assert not torch.equal(pictures, texts)


@pytest.mark.parametrize("seed", [0, 7])
def test_the_directions_of_retrieval_draw_apart(seed: int) -> None:
    features, owners = alike(), torch.arange(GROUP)
    pictures, texts = BlipRetrieval(tiny_config()).draw(features, features, owners, seed=seed)
    assert not torch.equal(pictures, texts)


@pytest.mark.parametrize("kind", [BlipPretrain, BlipRetrieval])
def test_a_group_draws_by_its_key_alone_as_among_others(
    kind: type[BlipPretrain] | type[BlipRetrieval],
) -> None:
    """A rank holds some of the groups, and draws for them what one process draws for all."""
    torch.manual_seed(0)
    model, nothing, keys = kind(tiny_config()), torch.empty(32, 0), torch.tensor([5, 9, 2, 7])

    def drawn(first: int, last: int) -> torch.Tensor:
        """What the groups from one on to another draw, in both directions, counted from there."""
        features, owners = alike()[16 * first : 16 * last], torch.arange(16 * (last - first))
        momentum = MomentumFeatures(features, features, nothing, nothing)
        third = momentum if kind is BlipPretrain else owners
        drawing = {"seed": 3, "group_size": 16, "group_keys": keys[first:last]}
        return torch.stack(model.draw(features, features, third, **drawing))

    whole = drawn(0, 4)
    assert torch.equal(torch.cat([drawn(0, 1), drawn(1, 4) + 16], 1), whole)
    # Other keys draw others.
    keys += 1
    assert not torch.equal(drawn(0, 4), whole)


def test_retrieval_never_draws_one_that_is_far() -> None:
    """Rows come in twos that are alike; at this temperature all others weigh nothing."""
    count = GROUP * GROUPS
    features = torch.eye(GROUP // 2).repeat_interleave(2, 0).repeat(GROUPS, 1)
    retrieval = BlipRetrieval(tiny_config())
    with torch.no_grad():
        retrieval.temp.fill_(0.001)
    names = torch.arange(GROUPS) + 1000
    drawing = {"group_size": GROUP, "group_keys": names}
    twin = torch.arange(count) ^ 1
    for drawn in retrieval.draw(features, features, torch.arange(count), **drawing):
        assert torch.equal(drawn, twin)
