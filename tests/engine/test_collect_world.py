"""The noisy world: known noise, nobody keeps an equal caption, the same bytes for a seed."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.collect.world import (
    Pair,
    World,
    deranged,
    divide,
    make_world,
    read_noise,
    read_pairs,
    redundant,
)
from engine.config import ConfigError
from engine.data.open_source import open_source
from tests.commands import contents
from tests.shards import caption, picture, write_shards

COUNT = 40


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("pairs"), COUNT)


def make(folder: Path, source: Path, **changes: object) -> World:
    settings = {"noise": 0.5, "clean_fraction": 0.2, "seed": 3, "clean": None}
    return make_world(folder, train=str(source), **(settings | changes))


def held(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Caption and picture in shards, by uid."""
    found = open_source(str(folder))
    samples = [found.read(number) for number in range(len(found))]
    assert all(sample.problem is None for sample in samples)
    return {sample.uid: (sample.captions[0], sample.image) for sample in samples}


def pair(number: int, text: str) -> Pair:
    return Pair(f"uid-{number}", "", picture(number), text, text.lower())


def test_the_world_holds_what_it_records(source: Path, tmp_path: Path) -> None:
    world = make(tmp_path / "world", source)
    web, clean = held(world.web), held(world.clean)
    truth = {f"uid-{n}": (caption(n), picture(n)) for n in range(COUNT)}
    assert (len(clean), len(web)) == (8, 32)
    assert not clean.keys() & web.keys()
    assert clean == {uid: truth[uid] for uid in clean}
    record = json.loads(world.noise.read_text())
    assert (record["clean"], record["web"], record["swapped"]) == (8, 32, 16)
    swapped = read_noise(world.noise)
    assert swapped.keys() == web.keys() and sum(swapped.values()) == 16
    for uid, (text, image) in web.items():
        assert image == truth[uid][1]
        assert record["pairs"][uid]["true"] == truth[uid][0]
        assert (text != truth[uid][0]) == swapped[uid]
    # Swapped among themselves: no caption is lost, none is there twice.
    assert sorted(text for text, _ in web.values()) == sorted(truth[uid][0] for uid in web)


@pytest.mark.parametrize(("noise", "wrong"), [(0.0, 0), (0.01, 0), (0.04, 2), (1.0, 32)])
def test_a_share_is_swapped(source: Path, tmp_path: Path, noise: float, wrong: int) -> None:
    world = make(tmp_path / "world", source, noise=noise)
    assert sum(read_noise(world.noise).values()) == wrong


def test_the_same_seed_gives_the_same_bytes(source: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        make(tmp_path / name / "world", source, seed=seed)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one != other
    before = contents(tmp_path)
    make(tmp_path / "one" / "world", source)
    assert contents(tmp_path) == before


def test_a_smaller_clean_set_is_a_part_of_a_larger_one(source: Path) -> None:
    pairs = read_pairs(str(source))
    sets = [{one.uid for one in divide(pairs, share, 0)[0]} for share in (0.01, 0.1, 0.5, 0.99)]
    assert [len(one) for one in sets] == [2, 4, 20, 38]
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_another_seed_chooses_other_clean_pairs(source: Path, tmp_path: Path) -> None:
    pairs = read_pairs(str(source))
    zero, one = ({found.uid for found in divide(pairs, 0.5, seed)[0]} for seed in (0, 1))
    assert zero != one
    worlds = [make(tmp_path / f"{n}", source, clean=str(source), seed=n) for n in (0, 1)]
    zero, one = (held(world.clean).keys() for world in worlds)
    assert zero != one


def test_clean_pairs_of_their_own(source: Path, tmp_path: Path) -> None:
    web = write_shards(tmp_path / "web_pairs", 12)
    world = make_world(
        tmp_path / "world",
        train=str(web),
        clean=str(source),
        noise=0.0,
        clean_fraction=0.25,
        seed=0,
    )
    assert (len(held(world.web)), len(held(world.clean))) == (12, 10)
    assert {text for text, _ in held(world.web).values()} == {caption(n) for n in range(12)}


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40), st.integers(0, 99))
def test_no_picture_keeps_an_equal_caption(letters: list[str], seed: int) -> None:
    pairs = [pair(number, text.upper() * (1 + number % 2)) for number, text in enumerate(letters)]
    own = [one.caption for one in pairs]
    if max(own.count(text) for text in own) * 2 > len(own):
        with pytest.raises(ConfigError, match="makes up more than half"):
            deranged(pairs, random.Random(seed))
        return
    dealt = deranged(pairs, random.Random(seed))
    assert sorted(dealt) == sorted(own)
    assert all(one != other for one, other in zip(dealt, own, strict=True))


def test_captions_that_are_learnt_alike_are_equal() -> None:
    pairs = [pair(0, "A dog"), pair(1, "a DOG"), pair(2, "a cat"), pair(3, "one fox")]
    for seed in range(20):
        dealt = deranged(pairs, random.Random(seed))
        assert {text.lower() for text in dealt[:2]} == {"a cat", "one fox"}


def test_too_few_pairs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 usable pairs, an experiment needs at least 2"):
        make(tmp_path / "world", write_shards(tmp_path / "one", 1))
    with pytest.raises(ConfigError, match="3 pairs: clean and web pairs need two each"):
        make(tmp_path / "world", write_shards(tmp_path / "three", 3))
    assert not list(tmp_path.glob("*world*"))


def test_words_that_few_captions_hold_are_left_out_with_what_they_leave_alone() -> None:
    texts = ["red cat", "red dog", "blue cat", "blue dog", "red fox", "green fox"]
    pairs = [pair(number, text) for number, text in enumerate(texts)]
    assert [one.caption for one in redundant(pairs, 1)] == texts
    # Without the green fox the red one stands alone.
    assert [one.caption for one in redundant(pairs, 2)] == texts[:4]
    with pytest.raises(ConfigError, match="min_word_count 9: of 6 captions 0 are left"):
        redundant(pairs, 9)
