"""Batches brought to few shapes."""

import torch

from engine.data.bounds import bounded, room_for_drawn


def texts(lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    return mask * 7, mask


def test_nothing_is_lost_and_shapes_are_few() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = set()
    for _ in range(300):
        lengths = torch.randint(8, 19, (64,), generator=generator)
        ids, mask = texts(lengths)
        more_ids, more_mask, capacity = bounded(ids, mask, 30)
        assert torch.equal(more_ids[:, : ids.shape[1]], ids)
        assert torch.equal(more_mask.sum(1), lengths)
        assert lengths.sum() <= capacity < lengths.sum() + 32
        shapes.add((more_ids.shape, capacity))
    assert len(shapes) <= 8


def test_no_text_is_made_longer_than_the_longest_allowed() -> None:
    ids, mask = texts(torch.tensor([3, 9]))
    assert bounded(ids, mask, 10)[0].shape == (2, 10)
    assert bounded(ids, mask, 9)[0].shape == (2, 9)
    assert bounded(ids, mask, 30)[0].shape == (2, 12)


def test_there_are_no_more_places_than_cells() -> None:
    ids, mask = texts(torch.tensor([3, 9]))
    assert bounded(ids, mask, 9)[2] == 18


def test_drawn_texts_have_room_for_an_eighth_more_and_some() -> None:
    assert room_for_drawn(800, 10_000) == 1024
    # Of few texts, whose mean is uncertain, for more than as many again.
    assert room_for_drawn(64, 10_000) == 192
    assert room_for_drawn(800, 900) == 900
