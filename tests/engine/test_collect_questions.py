"""Questions derived from pictures and names: what their rules promise."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.collect import openmoji, pair_set, questions, statements
from engine.collect.questions import make_questions
from engine.collect.statements import PEOPLE, TONES
from engine.collect.tasks import refuse_few
from engine.config import ConfigError
from engine.data.questions import open_questions, read_answer_list
from engine.data.shard_writer import ShardWriter
from engine.data.source import RawSample
from tests.commands import contents
from tests.shards import picture

TRADES = ("cook", "farmer", "pilot", "judge")
OTHERS = ("red heart", "blue circle", "smiling face", "Japan", "red and blue ball", "cat face")


def write_named(folder: Path, part: str, first: int) -> str:
    """People of three kinds, four trades and all skin tones, and other pictures, as shards."""
    names = [f"{who} {trade} {tone}" for who in PEOPLE for trade in TRADES for tone in TONES]
    names += [f"{who} {trade}" for who in PEOPLE for trade in TRADES] + list(OTHERS)
    with ShardWriter(folder / part, part, 100) as writer:
        for number, name in enumerate(names, first):
            facts = {"uid": f"set-{number:04X}", "url": ""}
            writer.add(f"{number:05d}", picture(number), "png", name, facts)
    return str(folder / part)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    parts = {
        "train": write_named(folder, "train", 0),
        "heldout": write_named(folder, "heldout", 99),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(questions, "LEAST", {"train": 6, "heldout": 6})
        for name in ("one", "again", "other"):
            seed = 1 if name == "other" else 0
            make_questions(folder / name, **parts, count=200, held_out=100, seed=seed)
    return folder


def rows_of(folder: Path, part: str) -> list[dict]:
    return json.loads((folder / f"{part}.json").read_text())


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_questions_are_read_answered_and_as_often_yes_as_no(made: Path, part: str) -> None:
    source = open_questions(str(made / "one" / f"{part}.json"))
    rows = rows_of(made / "one", part)
    assert len(source) == len(rows) == {"train": 200, "heldout": 100}[part]
    assert all(source.read(number).problem is None for number in range(len(source)))
    assert len({(row["image"], row["question"]) for row in rows}) == len(rows)
    balance: dict[str, Counter] = {}
    for row in rows:
        truth, count = Counter(row["answer"]).most_common(1)[0]
        assert len(row["answer"]) == 10 and count >= 9
        if row["question"].startswith("does the picture show"):
            balance.setdefault(row["question"], Counter())[truth] += 1
    assert len(balance) > 3
    assert all(counts["yes"] == counts["no"] for counts in balance.values()), balance


def test_answers_are_what_the_names_say(made: Path) -> None:
    names = {f"images/set-{n:04X}.png": name for n, name in enumerate(named_alike())}
    kinds = Counter()
    for row in rows_of(made / "one", "train"):
        name, truth = names[row["image"]], Counter(row["answer"]).most_common(1)[0][0]
        question = row["question"]
        kinds[question.rpartition(" ")[0] if "colour" in question else question] += 1
        if "skin tone" in question:
            assert f"{truth} skin tone" in name and f"-{truth}" not in name
        elif question.startswith("who"):
            assert name.startswith(truth)
        elif "colour" in question:
            assert name in ("red heart", "blue circle") and name.startswith(truth)
        else:
            thing = question.removeprefix("does the picture show ").removesuffix("?")
            assert (thing in name.split()) == (truth == "yes")
            if thing in PEOPLE:
                assert name.split()[0] in PEOPLE
    assert kinds["who is in the picture?"] == 50
    assert kinds["what skin tone does the person have?"] == 50
    assert kinds["what colour is the"] == 2


def named_alike() -> list[str]:
    names = [f"{who} {trade} {tone}" for who in PEOPLE for trade in TRADES for tone in TONES]
    names += [f"{who} {trade}" for who in PEOPLE for trade in TRADES] + list(OTHERS)
    return [name.lower() for name in names]


def test_a_seed_gives_the_same_bytes_and_parts_share_no_picture(made: Path) -> None:
    assert contents(made / "one") == contents(made / "again")
    assert contents(made / "one") != contents(made / "other")
    train, heldout = (rows_of(made / "one", part) for part in ("train", "heldout"))
    assert not {row["image"] for row in train} & {row["image"] for row in heldout}
    assert not {row["question_id"] for row in train} & {row["question_id"] for row in heldout}
    listed = read_answer_list(made / "one" / "answer_list.json")
    assert set(listed) == {answer for row in train for answer in row["answer"]}


def test_pictures_without_words_in_common_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too few pictures share words"):
        parts = {part: str(made / part) for part in ("train", "heldout")}
        make_questions(tmp_path, **parts)


def test_tasks_are_added_to_a_complete_set_and_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [d for d in openmoji.drawings() if any(trade in d.name for trade in TRADES)]
    monkeypatch.setattr(openmoji, "drawings", lambda: list(found))
    for module in (questions, statements):
        monkeypatch.setattr(module, "LEAST", {"train": 4, "heldout": 2})
    said: list[str] = []

    def run(**tasks: object) -> str:
        settings = {"size": 24, "held_out": 12, "output_dir": str(tmp_path / "set"), **tasks}
        pair_set.collect(pair_set.CollectConfig(**settings), said.append)
        return said[-1]

    run()
    assert not (tmp_path / "set" / "tasks").exists()
    assert f"{tmp_path / 'set' / 'tasks' / 'vqa'}: " in run(tasks="vqa")
    before = contents(tmp_path / "set" / "tasks")
    assert run(tasks=["vqa"]) == f"{tmp_path / 'set'}: complete, nothing to do"
    assert contents(tmp_path / "set" / "tasks") == before
    with pytest.raises(ConfigError, match="tasks: 'vgq' is not known: choose nlvr or visdial"):
        run(tasks=["vgq"])


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a set, and tasks, of some hundred people."""
    does = (*TRADES, "surfing", "running", "swimming")
    found = [d for d in openmoji.drawings() if any(thing in d.name for thing in does)]
    monkeypatch.setattr(openmoji, "drawings", lambda: list(found))
    for module in (questions, statements):
        monkeypatch.setattr(module, "LEAST", {"train": 4, "heldout": 3})

    def make(**settings: object) -> None:
        given = {"size": 24, "held_out": 2, "output_dir": str(tmp_path / "set"), **settings}
        pair_set.collect(pair_set.CollectConfig(**given), lambda line: None)

    return make


@pytest.mark.parametrize("task", ["nlvr", "vqa", "video"])
def test_too_few_held_out_pictures_are_said_before_a_set_is_written(
    few: Callable[..., None], tmp_path: Path, task: str
) -> None:
    said = f"^tasks {task}: .*; raise --held_out: 2 pictures are too few$"
    with pytest.raises(ConfigError, match=said):
        few(tasks=["visdial", task])
    assert not list(tmp_path.iterdir())


def test_they_are_said_of_a_complete_set_too(few: Callable[..., None], tmp_path: Path) -> None:
    few()
    before = contents(tmp_path)
    said = "^tasks video: no heldout picture is .*; raise --held_out, in another folder: 2 pictures"
    with pytest.raises(ConfigError, match=said):
        few(tasks=["visdial", "video"])
    assert contents(tmp_path) == before


def test_more_held_out_pictures_are_not_asked_for_where_training_lacks_them() -> None:
    def raw(number: int, name: str) -> RawSample:
        return RawSample(str(number), str(number), "", [name], number, picture(number))

    parts = {part: [raw(n, "red heart") for n in range(3)] for part in ("train", "heldout")}
    for task, said in (
        ("visdial", "no train picture shows one person or one skin tone: nothing can be asked"),
        ("video", "no train picture is named man light skin tone: clips cannot be made of them"),
        ("vqa", "too few pictures share words: nothing can be asked about them"),
        ("nlvr", "too few pictures share words: nothing can be stated about two of them"),
    ):
        with pytest.raises(ConfigError, match=f"^tasks {task}: {said}$"):
            refuse_few([task], parts)
    parts["train"] = [raw(0, "man")]
    with pytest.raises(ConfigError, match="no heldout picture shows .*; raise --held_out: 3 pict"):
        refuse_few(["visdial"], parts)
