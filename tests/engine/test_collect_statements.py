"""Statements made of named pictures: true as they say, balanced, and split by picture."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from engine.collect.statements import FORMS, make_statements, shown_by
from engine.config import ConfigError
from engine.data.images import decode_image
from engine.data.shard_writer import ShardWriter
from engine.data.statements import open_statements
from tests.shards import caption, picture, write_shards

TONED = ("man", "woman", "person")


def write_people(folder: Path, count: int) -> str:
    """Pictures of somebody with a skin tone; which, the uid says."""
    with ShardWriter(folder, "people", 500) as writer:
        for number in range(count):
            tone = ("light", "medium-light", "dark")[number // 3 % 3]
            name = f"{TONED[number % 3]} running {tone} skin tone"
            facts = {"uid": name.replace(" ", "_") + f"_{number}"}
            writer.add(f"{number:05d}", picture(number), "png", name, facts)
    return str(folder)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    parts = {"train": write_people(folder / "train", 540)}
    parts["heldout"] = write_people(folder / "heldout", 54)
    counts = make_statements(folder / "nlvr", **parts, count=600, held_out=300)
    assert counts == {"train": 600, "heldout": 300}
    return folder / "nlvr"


def rows_of(folder: Path, part: str) -> list[dict]:
    return json.loads((folder / f"{part}.json").read_text())


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("woman construction worker medium skin tone", {"woman", "construction", "worker"}),
        ("Man with turban: medium-dark skin tone", {"man", "turban"}),
        ("index pointing left", {"index", "pointing"}),
    ],
)
def test_names_say_what_is_shown(name: str, shows: set[str]) -> None:
    tone = re.findall(r"medium\S* skin tone", name)
    assert shown_by(name) == shows | set(tone)


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_labels_are_what_the_names_of_the_pictures_say(made: Path, part: str) -> None:
    forms = set()
    for row in rows_of(made, part):
        # A file is named like its picture: images/woman_running_medium-light_skin_tone_12.png.
        left, right = (set(Path(name).stem.split("_")) for name in row["images"])
        said = row["sentence"]
        a, b = re.search(r"shows? (\S+)(?:.* right one (\S+))?", said).groups()
        one, other = a in left, a in right
        if b:
            assert one != (b in left) and other != (b in right)
        true = {
            "both": one and other,
            "neither": not one and not other,
            "exactly": one != other,
            "at": one or other,
            "the left": one and (b is None or b in right),
            "the right": other,
        }[re.match(r"the \w+|\w+", said)[0]]
        assert row["label"] == str(true), row
        forms.add(re.sub(r"(shows?|right one) .*?( and|$)", r"\1\2", said))
    assert len(forms) == len(FORMS)


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_words_alone_tell_nothing_and_pictures_stay_in_their_part(made: Path, part: str) -> None:
    rows = rows_of(made, part)
    labels: dict[str, Counter] = {}
    for row in rows:
        labels.setdefault(row["sentence"], Counter())[row["label"]] += 1
    assert all(counts["True"] == counts["False"] for counts in labels.values())
    assert len(labels) > 30
    assert all(row["images"][0] != row["images"][1] for row in rows)
    source = open_statements(str(made / f"{part}.json"))
    assert len(source) == len(rows)
    for number in range(0, len(source), 29):
        raw = source.read(number)
        assert raw.problem is None
        assert decode_image(raw.image, 10_000).size == decode_image(raw.second, 10_000).size
        assert str(bool(raw.label)) == rows[number]["label"]


def test_the_same_seed_gives_the_same_statements_and_another_others(tmp_path: Path) -> None:
    data = str(write_shards(tmp_path / "data", 832, per_shard=900))
    files = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        make_statements(folder, train=data, heldout=data, count=60, held_out=20, seed=seed)
        files.append((folder / "train.json").read_bytes() + (folder / "heldout.json").read_bytes())
    assert files[0] == files[1] != files[2]
    said = {row["sentence"] for row in rows_of(tmp_path / "0", "train")}
    # Every picture shows a number, which therefore tells none from another.
    assert any("shows red" in one or "show red" in one for one in said)
    assert not any("number" in one for one in said)
    assert caption(0).startswith("a red square")


def test_pictures_that_share_nothing_are_one_line(tmp_path: Path) -> None:
    data = str(write_shards(tmp_path / "data", 20))
    with pytest.raises(ConfigError, match="too few pictures share words") as problem:
        make_statements(tmp_path / "out", train=data, heldout=data)
    assert "\n" not in str(problem.value)
