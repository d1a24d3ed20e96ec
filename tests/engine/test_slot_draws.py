"""What a slot draws: another caption, view and substitute than other slots and seeds do."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.data.loader import Slots
from engine.data.open_source import open_source
from tests.engine.test_data_batches import run_config
from tests.shards import picture, write_shards


def listed(folder: Path, rows: list[dict]) -> Path:
    """Pairs of drawn pictures as BLIP's JSON; a picture that a row names is there unless it is
    called bad."""
    for number, row in enumerate(rows):
        if not row["image"].startswith("bad"):
            (folder / row["image"]).write_bytes(picture(number))
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder / "pairs.json"


def slots_of(data: Path, seed: int = 0, **changes: object) -> Slots:
    """Of a tiny run."""
    config = replace(run_config(data, **changes), seed=seed)
    return Slots(config, open_source(config.data.train))


def test_slots_choose_among_all_captions_of_a_picture(tmp_path: Path) -> None:
    there = slots_of(listed(tmp_path, [{"image": "0.png", "caption": ["a", "b", "c"]}]))
    assert {there[slot].caption for slot in range(60)} == {"a", "b", "c"}


@pytest.mark.parametrize("fast_views", [False, True])
def test_a_picture_is_seen_otherwise_in_each_epoch_and_by_each_seed(
    tmp_path: Path, fast_views: bool
) -> None:
    data = write_shards(tmp_path, 1)
    there = slots_of(data, fast_views=fast_views)
    views = [there[0].image, there[1].image, slots_of(data, 1, fast_views=fast_views)[0].image]
    for one, other in itertools.combinations(views, 2):
        assert not torch.equal(one, other)


def test_bad_samples_have_different_substitutes(tmp_path: Path) -> None:
    good = [{"image": f"{n}.png", "caption": f"pair {n}"} for n in range(20)]
    bad = [{"image": f"bad {n}.png", "caption": "nothing"} for n in range(20)]
    there = slots_of(listed(tmp_path, good + bad))
    samples = [there[slot] for slot in range(40)]
    substitutes = [sample.caption for sample in samples if sample.reason]
    assert len(substitutes) == 20
    assert "nothing" not in substitutes
    assert len(set(substitutes)) >= 5
