"""Dialogues derived from pictures and names: what their rules promise."""

import json
from collections import Counter
from pathlib import Path

import pytest

from engine.collect.dialogues import ANSWERS, POSSESSIVES, make_dialogues
from engine.collect.questions import TONE_NAMES
from engine.collect.statements import PEOPLE, TONES
from engine.config import ConfigError
from engine.data.dialogues import open_dialogues
from engine.data.shard_writer import ShardWriter
from tests.commands import contents
from tests.shards import picture

TRADES = ("cook", "farmer", "pilot")
# Nobody and no tone; one who, no tone; a tone, nobody; two of a kind.
OTHERS = ("red heart", "man in suit", "waving hand dark skin tone", "woman and man holding hands")
OTHERS += ("handshake light skin tone dark skin tone", "dark skin tone dark skin tone kiss")


def write_named(folder: Path, part: str, first: int) -> tuple[str, dict[str, str]]:
    """People of three kinds, three trades and all skin tones, and others; names by file."""
    names = [f"{who} {trade} {tone}" for who in PEOPLE for trade in TRADES for tone in TONES]
    names = dict(enumerate([*names, *OTHERS], first))
    with ShardWriter(folder / part, part, 100) as writer:
        for number, name in names.items():
            facts = {"uid": f"set-{number:04X}", "url": ""}
            writer.add(f"{number:05d}", picture(number), "png", name, facts)
    return str(folder / part), {f"images/set-{n:04X}.png": name for n, name in names.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("named")
    (train, names), (heldout, more) = write_named(folder, "train", 0), write_named(folder, "h", 99)
    for name in ("one", "again", "other"):
        seed = 1 if name == "other" else 0
        parts = {"train": train, "heldout": heldout}
        made = make_dialogues(folder / name, **parts, count=200, held_out=100, seed=seed)
        assert made == {"train": 200, "heldout": 100}
    return folder, names | more


def dialogues_of(folder: Path, part: str) -> list[tuple[dict, list[tuple[str, str]]]]:
    """Each dialogue with its questions and answers in words."""
    data = json.loads((folder / f"{part}.json").read_text())["data"]
    return [
        (
            dialog,
            [
                (data["questions"][one["question"]], data["answers"][one["answer"]])
                for one in dialog["dialog"]
            ],
        )
        for dialog in data["dialogs"]
    ]


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_they_are_read_with_all_answers_as_candidates(
    made: tuple[Path, dict[str, str]], part: str
) -> None:
    source = open_dialogues(str(made[0] / "one" / f"{part}.json"))
    assert len(source) == sum(len(said) for _, said in dialogues_of(made[0] / "one", part))
    orders = set()
    for number in range(len(source)):
        raw = source.read(number)
        assert raw.problem is None
        assert sorted(text for text, _ in raw.answers) == sorted(ANSWERS)
        assert sum(right for _, right in raw.answers) == 1
        orders.add(raw.answers)
    assert len(orders) > len(source) / 2


def test_answers_are_what_the_names_and_what_was_said_before_say(
    made: tuple[Path, dict[str, str]],
) -> None:
    asked = Counter()
    for dialog, said in dialogues_of(made[0] / "one", "train"):
        name = made[1][dialog["image"]]
        words, tone = name.split(), None
        who = next((word for word in PEOPLE if word in words), None)
        for place, (question, answer) in enumerate(said):
            before = said[place - 1][0] if place else ""
            if question.startswith("is it a "):
                two = question.removeprefix("is it a ").removesuffix("?").split(" or a ")
                assert len({*two} & {*PEOPLE}) == 2 and (answer == "yes") == (who in two)
                followed = place + 1 < len(said) and said[place + 1][0] == "which of the two?"
                assert followed == (answer == "yes")
            elif question == "which of the two?":
                assert answer == who and before.startswith("is it a ")
            elif question.startswith("is ") and " skin " in question:
                _, possessive, _, tone = question.removesuffix("?").split()
                assert (answer == "yes") == (f" {tone} skin tone" in name)
                told = any(earlier.startswith("is it a ") for earlier, _ in said[:place])
                assert possessive == (POSSESSIVES[who] if told else "the")
            elif question == "is it darker than that?":
                truth = next(t for t in TONE_NAMES if f" {t} skin tone" in name)
                darker = TONE_NAMES.index(truth) > TONE_NAMES.index(tone)
                assert (answer == "yes") == darker and truth != tone
            else:
                assert question == "which skin tone is it?" and f" {answer} skin tone" in name
            asked[" ".join(question.split()[:2]), answer] += 1
        assert not set(dialog["caption"].split()) & {*PEOPLE, "skin", "tone"}
    assert {kind for kind, _ in asked} >= {"is it", "which of", "is the", "is his", "which skin"}
    assert 0.3 < asked["is it", "yes"] / (asked["is it", "yes"] + asked["is it", "no"]) < 0.7


def test_only_pictures_of_one_person_or_one_tone_are_asked_about_evenly(
    made: tuple[Path, dict[str, str]],
) -> None:
    pictures = Counter(dialog["image"] for dialog, _ in dialogues_of(made[0] / "one", "train"))
    names = {made[1][file] for file in pictures}
    assert names & set(OTHERS) == {"man in suit", "waving hand dark skin tone"}
    assert max(pictures.values()) - min(pictures.values()) <= 1
    for file in pictures:
        assert (made[0] / "one" / file).is_file()


def test_a_seed_gives_the_same_bytes_and_parts_share_nothing(
    made: tuple[Path, dict[str, str]],
) -> None:
    folder = made[0]
    assert contents(folder / "one") == contents(folder / "again")
    assert contents(folder / "one") != contents(folder / "other")
    train, heldout = (dialogues_of(folder / "one", part) for part in ("train", "heldout"))
    for key in ("image", "image_id"):
        assert not {d[key] for d, _ in train} & {d[key] for d, _ in heldout}
    assert len({d["image_id"] for d, _ in train}) == 200


def test_pictures_that_show_nobody_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "set", "set", 100) as writer:
        writer.add("0", picture(0), "png", "red heart", {"uid": "0", "url": ""})
    with pytest.raises(ConfigError, match="nothing can be asked"):
        where = str(tmp_path / "set")
        make_dialogues(tmp_path / "task", train=where, heldout=where)
