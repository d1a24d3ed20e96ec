"""Sets drawn by weight: exact shares, each set through its own epochs, the same from any point."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.config import ConfigError
from engine.data.loader import build_loader
from engine.data.mixture import BLOCK, MixedOrder, apportioned, open_mixture
from engine.data.open_source import open_source
from engine.data.tokenizer import open_tokenizer
from tests.engine.test_data_batches import run_config
from tests.shards import write_shards

PARTS, WEIGHTS = [[7, 9], [40], [3]], [5.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("weights", "places", "shares"),
    [([1, 1, 1], 10, [4, 3, 3]), ([0.7, 0.3], 10, [7, 3]), ([1e-9, 1], 4, [0, 4])],
)
def test_places_follow_the_weights(weights: list, places: int, shares: list) -> None:
    assert apportioned(weights, places).tolist() == shares


def part_of(number: int) -> int:
    return int(np.searchsorted([16, 56], number, "right"))


def test_every_block_holds_each_set_by_its_weight() -> None:
    order = MixedOrder(PARTS, WEIGHTS, 0, 4)
    assert len(order) == 59
    for block in range(3):
        drawn = Counter(part_of(order.of_slot(block * BLOCK + n)) for n in range(BLOCK))
        assert drawn == {0: BLOCK * 5 // 8, 1: BLOCK // 4, 2: BLOCK // 8}
    first = [part_of(order.of_slot(n)) for n in range(64)]
    assert len(set(first[:32])) == 3
    assert first != [part_of(order.of_slot(BLOCK + n)) for n in range(64)]


def test_each_set_runs_through_its_own_epochs() -> None:
    order = MixedOrder(PARTS, WEIGHTS, 3, 4)
    drawn = [order.of_slot(slot) for slot in range(3 * BLOCK)]
    for part, (first, size) in enumerate(((0, 16), (16, 40), (56, 3))):
        own = [number - first for number in drawn if part_of(number) == part]
        epochs = [own[cut : cut + size] for cut in range(0, len(own) - size + 1, size)]
        assert len(epochs) > 15
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1


def test_equal_sets_run_in_orders_of_their_own() -> None:
    order = MixedOrder([[1] * 20] * 2, [1.0, 1.0], 0, 1)
    drawn = [order.of_slot(slot) for slot in range(BLOCK)]
    first = [number for number in drawn if number < 20]
    second = [number - 20 for number in drawn if number >= 20]
    assert len(first) == len(second)
    assert first[:20] != second[:20]


def test_a_slot_does_not_depend_on_those_before() -> None:
    order = MixedOrder(PARTS, WEIGHTS, 1, 2)
    drawn = [order.of_slot(slot) for slot in range(2 * BLOCK)]
    for slot in (2 * BLOCK - 1, 0, 777, BLOCK, BLOCK - 1):
        assert MixedOrder(PARTS, WEIGHTS, 1, 2).of_slot(slot) == drawn[slot]
    assert drawn != [MixedOrder(PARTS, WEIGHTS, 2, 2).of_slot(slot) for slot in range(2 * BLOCK)]


def test_a_set_too_rare_to_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match=f"weight 1 gives less than one draw in {BLOCK}"):
        MixedOrder([[4], [4]], [1.0, 1e-6], 0, 1)


def test_ranks_workers_and_a_later_start_give_the_same_batches(tmp_path: Path) -> None:
    sets = [str(write_shards(tmp_path / name, count)) for name, count in (("web", 30), ("own", 8))]
    config = run_config(Path("unused"), train=sets, weights=[3.0, 1.0])
    tokenizer = open_tokenizer(None)

    def batches(workers: int, ranks: int, start: int) -> tuple[torch.Tensor, list[str]]:
        run = replace(config, data=replace(config.data, workers=workers))
        source = open_mixture(open_source, run.data)
        place = {"world_size": ranks, "start_step": start, "stop_step": 6}
        loaders = [build_loader(run, source, tokenizer, rank=r, **place) for r in range(ranks)]
        found = [batch for parts in zip(*loaders, strict=True) for batch in parts]
        return torch.cat([b.image for b in found]), [key for b in found for key in b.key]

    images, keys = batches(0, 1, 0)
    for workers, ranks, start in ((0, 2, 0), (1, 1, 0), (0, 1, 4), (2, 2, 3)):
        others, names = batches(workers, ranks, start)
        assert names == keys[8 * start :]
        assert torch.equal(others, images[8 * start :])


def test_without_weights_the_order_stays_what_it_was(tmp_path: Path) -> None:
    data = run_config(write_shards(tmp_path, 9, per_shard=4)).data
    assert open_mixture(open_source, data).fingerprint == open_source(data.train).fingerprint


def test_weights_must_fit_the_sets(tmp_path: Path) -> None:
    data = replace(run_config(write_shards(tmp_path, 9)).data, weights=[1.0, 2.0])
    with pytest.raises(ConfigError, match="data.weights has 2 numbers for 1 entries of data.train"):
        open_mixture(open_source, data)
    with pytest.raises(ConfigError, match="data.weights is 0.0: must be above 0"):
        run_config(tmp_path, weights=[1.0, 0.0])
