"""A uid for each pair: those that repeat get a number, all others stay what they are."""

import random

import numpy as np

from engine.data.pair_names import PairNames, Repeats
from engine.data.source import RawSample


def row(uid: str, captions: int = 1) -> RawSample:
    return RawSample("key", uid, "", ["text"] * captions, 0, b"")


def named(rows: list[RawSample]) -> list[str]:
    names = PairNames()
    return [name for one in rows for name in names.of(one)]


def test_repeats_are_found_across_sorted_runs() -> None:
    repeats = Repeats()
    numbers = np.random.default_rng(0).permutation(30_000).tolist()
    uids = [f"{number << 70:032x}" for number in numbers]
    assert not any(repeats.meets(uid) for uid in uids)
    assert all(repeats.meets(uid) for uid in uids[::97])
    assert len(repeats._old) < 4


def test_uids_without_repeats_stay() -> None:
    uids = [f"{n}.png" for n in range(20_000)] + ["", "a#1", "\ud800"]
    assert named([row(uid) for uid in uids]) == uids
    assert named([row("a", 3), row("b", 0), row("c")]) == ["a#0", "a#1", "a#2", "c"]


def test_repeats_are_numbered_in_order() -> None:
    rows = [row("a"), row("b"), row("a"), row("a"), row("b")]
    assert named(rows) == ["a", "b", "a#1", "a#2", "b#1"]
    assert named([row("a", 2), row("a", 2), row("a")]) == ["a#0", "a#1", "a#2", "a#3", "a"]
    assert named([row("a"), row("a#1"), row("a")]) == ["a", "a#1", "a#2"]
    assert named([row("a"), row("a"), row("a#1")]) == ["a", "a#1", "a#1#1"]


def test_names_are_distinct_and_those_of_a_longer_list_begin_alike() -> None:
    rng = random.Random(0)
    uids = ["a", "b", "a#1", "a#0", "b#1#1", "b#1", ""]
    rows = [row(rng.choice(uids), rng.choice((1, 1, 1, 0, 2, 3))) for _ in range(3000)]
    names = named(rows)
    assert len(set(names)) == len(names)
    half = named(rows[:1500])
    assert names[: len(half)] == half


def test_one_picture_of_all_rows_takes_no_longer() -> None:
    """Numbers are not tried from the first on for each row."""
    names = PairNames()
    for number in range(50_000):
        (name,) = names.of(row("a"))
        assert name == (f"a#{number}" if number else "a")
