"""Questions: reading, weights, batches, and their evaluation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_model.vqa import BlipVqa
from engine.config import (
    ConfigError,
    DataSection,
    EvaluateSection,
    ModelSection,
    RunConfig,
    TrainSection,
)
from engine.data.answers import weighted
from engine.data.batch import Batch
from engine.data.captions import clean_question
from engine.data.loader import build_loader
from engine.data.questions import QuestionSlots, open_questions, read_answer_list
from engine.data.tokenizer import open_tokenizer
from engine.evaluation.run import evaluate
from tests.shards import COLOURS, write_questions
from tests.tiny import spread, tiny_config, write_model

ROW = {
    "image": "0.png",
    "question": "What?",
    "dataset": "vqa",
    "answer": ["red"] * 10,
    "question_id": 7,
}


def run_config(data: Path, **changes: Any) -> RunConfig:
    """A tiny run on questions."""
    return RunConfig(
        model=ModelSection(preset="tiny"),
        data=replace(DataSection(train=str(data), workers=0), **changes),
        train=TrainSection(global_batch_size=8, negative_group_size=4),
    )


def batches(config: RunConfig, rank: int, ranks: int, start: int, stop: int) -> list[Batch]:
    """A rank's batches of some steps."""
    source, tokenizer = open_questions(config.data.train), open_tokenizer(None)
    steps = {"start_step": start, "stop_step": stop, "slots": QuestionSlots}
    return list(build_loader(config, source, tokenizer, rank=rank, world_size=ranks, **steps))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": None}, "has no 'image' path"),
        ({"question": " "}, "(0.png) has no 'question'"),
        ({"dataset": "gqa"}, "(0.png) has a 'dataset' that is neither 'vqa' nor 'vg': 'gqa'"),
        ({"answer": "red"}, "(0.png) has an 'answer' that is not a list of people's texts"),
        ({"answer": []}, "(0.png) has an 'answer' that is not a list of people's texts"),
        ({"answer": ["", " "]}, "(0.png) has an 'answer' without a word"),
        ({"dataset": "vg", "answer": ""}, "(0.png) has an 'answer' without a word"),
        ({"answer": ["red", 3]}, "(0.png) has an 'answer' that is not a list of people's texts"),
        ({"dataset": "vg"}, "(0.png) has an 'answer' that is not a text, as Visual Genome's"),
        ({"question_id": 1}, "has the question_id 1 of row 0"),
        ({"question_id": [1]}, "has a 'question_id' that is neither a number nor a text"),
        (None, "is no question: 'None'"),
    ],
)
def test_a_wrong_row_is_named_with_its_file(
    tmp_path: Path, changes: dict[str, Any] | None, message: str
) -> None:
    wrong = None if changes is None else ROW | changes
    path = tmp_path / "vqa.json"
    path.write_text(json.dumps([ROW | {"question_id": 1}, ROW | {"question_id": "1"}, wrong]))
    # What training does not look at may be anything.
    needed = "question_id" if changes and "question_id" in changes else "answer"
    with pytest.raises(ConfigError) as problem:
        open_questions(str(path), needed=needed)
    assert str(problem.value).startswith(f"{path}: row 2 ")
    assert message in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("missing", ["image", "question", "dataset", "answer", "question_id"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "vqa.json"
    path.write_text(json.dumps([{key: value for key, value in ROW.items() if key != missing}]))
    needed = "question_id" if missing == "question_id" else "answer"
    with pytest.raises(ConfigError, match=f"vqa.json: row 0 .*{missing}"):
        open_questions(str(path), needed=needed)


def test_what_is_no_list_of_questions_or_answers_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    for content, message in (("", "not readable as json"), ("{}", "expected a list of")):
        path.write_text(content)
        for reading in (read_answer_list, lambda path: open_questions(str(path))):
            with pytest.raises(ConfigError, match=f"file.json: {message}") as problem:
                reading(path)
            assert "\n" not in str(problem.value)
    path.write_text('["red", "blue", 3]')
    with pytest.raises(ConfigError, match=r"file.json: row 2 is no answer: '3'"):
        read_answer_list(path)
    with pytest.raises(ConfigError, match="questions come in a .json file"):
        open_questions(str(tmp_path))


def test_weights_are_shares_of_the_people_and_a_fifth_for_visual_genome(tmp_path: Path) -> None:
    source = open_questions(str(write_questions(tmp_path, 8)))
    asked, genome = source.read(0), source.read(3)
    weights = dict(asked.answers)
    assert weights == pytest.approx({"red": 0.7, "light red": 0.2, "none": 0.1})
    assert asked.people == ("red",) * 7 + ("light red",) * 2 + ("none",)
    assert (genome.answers, genome.people) == ((("yellow", 0.2),), ())
    assert genome.captions == ["What colour is it, really?"]


def test_nothing_is_no_answer_to_learn(tmp_path: Path) -> None:
    """Who said it is one of the people all the same."""
    path = write_questions(tmp_path, 1)
    rows = json.loads(path.read_text())
    rows[0]["answer"] = ["red"] * 6 + [" "] * 4
    path.write_text(json.dumps(rows))
    asked = open_questions(str(path)).read(0)
    assert asked.answers == (("red", 0.6),)
    assert asked.people == ("red",) * 6 + ("",) * 4


def test_questions_are_cleaned_as_the_original_does() -> None:
    assert clean_question('Is it "really" a U.S. flag;  red*?', 50) == "is it really a us flag red?"
    assert clean_question("one two three", 2) == "one two"


def test_ranks_and_resuming_do_not_change_the_global_batches(tmp_path: Path) -> None:
    config = run_config(write_questions(tmp_path, 24))
    whole = batches(config, 0, 1, 0, 4)
    halves = [batches(config, rank, 2, 2, 4) for rank in range(2)]
    for step in (0, 1):
        parts = [half[step] for half in halves]
        assert sum((part.key for part in parts), []) == whole[2 + step].key
        both = torch.cat([part.answers.weight for part in parts])
        assert torch.equal(both, whole[2 + step].answers.weight)
    first = whole[0]
    assert first.answers.question.bincount().tolist() == [
        1 if int(key.split()[-1][:-1]) % 4 == 3 else 3 for key in first.key
    ]
    tokenizer = open_tokenizer(None)
    words = tokenizer.decode(first.answers.ids[:, 1:])
    for question, word, weight in zip(
        first.answers.question.tolist(), words, first.answers.weight.tolist(), strict=True
    ):
        number = int(first.key[question].split()[-1][:-1])
        shares = {COLOURS[number % 8]: 0.7, f"light {COLOURS[number % 8]}": 0.2, "none": 0.1}
        expected = 0.2 if number % 4 == 3 else shares[word]
        assert weight == pytest.approx(expected)


def test_bounded_answers_have_few_shapes_and_the_same_loss(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(None)
    groups = [(("red", 0.7), ("light green", 0.3)), (("a very long answer", 0.2),), (("no", 1.0),)]
    plain = weighted(groups, tokenizer, 12, False)
    bounded = weighted(groups, tokenizer, 12, True)
    assert (len(plain.ids), len(bounded.ids)) == (4, 6)
    assert bounded.question.tolist() == [0, 0, 1, 2, 2, 2]
    assert (bounded.ids.shape[1], bounded.block) == (8, 8)
    assert 14 == bounded.mask[:, 1:].sum() <= bounded.capacity == 22
    torch.manual_seed(0)
    model = BlipVqa(tiny_config())
    image, (ids, mask) = torch.randn(3, 3, 32, 32), tokenizer.encode(["what?", "why?", "a?"], 9)
    losses = [model(image, ids, mask, answers)["loss_lm"] for answers in (plain, bounded)]
    torch.testing.assert_close(*losses)


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network with spread weights, 24 questions and a list of answers."""
    folder = tmp_path_factory.mktemp("vqa")
    torch.manual_seed(0)
    model = BlipVqa(tiny_config())
    spread(model)
    write_model(folder / "model", model)
    write_questions(folder, 24)
    (folder / "list.json").write_text(json.dumps([*COLOURS, "light red", "none"]))
    return folder


def results_of(folder: Path, out: Path, data: str = "questions.json", **settings: Any) -> tuple:
    config = RunConfig(
        output_dir=str(out),
        precision="fp32",
        device="cpu",
        model=ModelSection(preset="tiny", checkpoint=str(folder / "model")),
        data=DataSection(eval=str(folder / data), workers=0, max_words=50, max_bad_fraction=0.4),
        evaluate=EvaluateSection(
            **({"batch_size": 5, "max_length": 6, "min_length": 1} | settings)
        ),
    )
    return evaluate(config, "vqa"), json.loads((out / "vqa_result.json").read_text())


@pytest.mark.parametrize("listed", [True, False])
def test_every_question_is_answered_whatever_the_batch(
    answering: Path, tmp_path: Path, listed: bool
) -> None:
    settings = {"answer_list": str(answering / "list.json")} if listed else {}
    results, answers = results_of(answering, tmp_path / "a", **settings)
    assert [row["question_id"] for row in answers] == list(range(24))
    assert (results["count"], results["bad_samples"], results["task"]) == (24, 0, "vqa")
    # People's answers to Visual Genome's are not known, and its questions not counted.
    assert results["chance"]["accuracy"] == pytest.approx(3 / 18)
    assert 0 <= results["metrics"]["accuracy"] <= 1
    if listed:
        assert {row["answer"] for row in answers} <= {*COLOURS, "light red", "none"}
    again = results_of(answering, tmp_path / "b", **settings, batch_size=24)[1]
    assert again == answers


def test_lengths_that_forbid_short_answers_are_refused(answering: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="min_length 5 forbids short answers"):
        results_of(answering, tmp_path / "out", min_length=5)


def test_what_cannot_be_seen_is_answered_with_nothing_and_counted(
    answering: Path, tmp_path: Path
) -> None:
    rows = json.loads((answering / "questions.json").read_text())[:3]
    rows[1] |= {"image": "missing.png"}
    unanswered = [{key: row[key] for key in row if key != "answer"} for row in rows]
    (answering / "some.json").write_text(json.dumps(unanswered))
    results, answers = results_of(answering, tmp_path, "some.json", num_beams=1)
    assert (results["count"], results["bad_samples"]) == (2, 1)
    assert (results["metrics"], results["chance"]) == ({}, {})
    assert {row["question_id"]: row["answer"] == "" for row in answers}[1]
    assert len(answers) == 3
