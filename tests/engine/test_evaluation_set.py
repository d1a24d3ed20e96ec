"""Held-out pairs: every picture once, every caption that can be used."""

import json
from pathlib import Path

import pytest

from engine.config import ConfigError
from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from tests.shards import caption, picture, write_shards


def pairs_of(place: Path, max_words: int = 30) -> EvaluationSet:
    return EvaluationSet(open_source(str(place)), 32, max_words, 10_000)


@pytest.mark.parametrize("batch_size", [1, 4, 9, 100])
def test_batches_hold_the_pictures_in_order(tmp_path: Path, batch_size: int) -> None:
    pairs = pairs_of(write_shards(tmp_path, 9, per_shard=4), max_words=3)
    batches = list(pairs.views(batch_size))
    assert [len(batch) for batch in batches] == [
        min(batch_size, 9 - start) for start in range(0, 9, batch_size)
    ]
    assert all(batch.shape[1:] == (3, 32, 32) for batch in batches)
    assert pairs.captions == [" ".join(caption(n).split()[:3]) for n in range(9)]
    assert pairs.caption_image == list(range(9))
    assert pairs.bad == []


def test_pictures_come_once_with_every_usable_caption(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    rows = [
        {"image": "missing.png", "caption": "Not there", "image_id": 7},
        {"image": "0.png", "caption": ["A Fox!", "", None, "two"], "image_id": 7},
        {"image": "1.png", "caption": "one", "image_id": 9},
        {"image": "0.png", "caption": "three", "image_id": 7},
        {"image": "2.png", "caption": ["", None], "image_id": 8},
        {"image": "2.png", "caption": [], "image_id": 8},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    pairs = pairs_of(tmp_path / "pairs.json")
    batches = [list(range(len(views))) for views in pairs.views(1)]
    # The first picture is shown again with the text that comes later, and does not count again.
    assert batches == [[0], [0], [0]]
    assert pairs.gathered(["abc", "d", "e"]) == ["a", "d"]
    assert pairs.keys == ["0.png", "1.png"]
    assert pairs.image_ids == [7, 9]
    assert pairs.captions == ["a fox", "two", "one", "three"]
    assert pairs.caption_image == [0, 0, 1, 0]
    assert pairs.bad == [
        ("missing.png", "missing"),
        ("2.png", "bad_text"),
        ("2.png", "empty_caption"),
    ]


def test_no_usable_pair(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text('[{"image": "missing.png", "caption": "a dog"}]')
    pairs = pairs_of(tmp_path / "pairs.json")
    with pytest.raises(
        ConfigError, match="no usable pair .* the first: .*'missing.png', 'missing'"
    ):
        list(pairs.views(4))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_rows_and_domains_stay_with_pictures_that_come_again(
    tmp_path: Path, batch_size: int
) -> None:
    """Cases show a picture by its row, and figures of a domain are made of its pictures."""
    (tmp_path / "0.png").write_bytes(picture(0))
    (tmp_path / "1.png").write_bytes(picture(1))
    first = {"image": "0.png", "image_id": 7, "domain": "near", "caption": "A fox!"}
    rows = [first, first | {"caption": "two"}, first | {"image": "gone.png"}]
    rows.append({"image": "1.png", "image_id": 9, "domain": "far", "caption": "three"})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    pairs = pairs_of(tmp_path / "pairs.json")
    list(pairs.views(batch_size))
    assert (pairs.keys, pairs.rows) == (["0.png", "1.png"], [0, 3])
    assert pairs.domains == ["near", "far"]
    assert (pairs.raw_captions, pairs.caption_image) == (["A fox!", "two", "three"], [0, 0, 1])
    assert (pairs.bad, pairs.bad_ids) == ([("gone.png", "missing")], [7])


def test_one_empty_caption_among_others_hides_none(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    rows = [{"image": "0.png", "caption": ["", "a fox"]}]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    source = open_source(str(tmp_path / "pairs.json"), textless=True)
    pairs = EvaluationSet(source, 32, 30, 10_000, textless=True)
    list(pairs.views(4))
    assert (pairs.captions, pairs.bad) == (["a fox"], [])
