"""A loaded model that answers questions: one by one, many at once, chosen and written."""

import pytest
import torch

from blip_model import Blip
from blip_model.answers import QuestionStates
from blip_model.beams import Beams
from blip_model.vqa import BlipVqa
from engine.config import ConfigError
from engine.data.tokenizer import open_tokenizer
from engine.inference import LoadedBlip
from tests.shards import picture
from tests.tiny import spread, tiny_config

pytestmark = pytest.mark.xdist_group("inference")
PICTURES = [picture(number) for number in (0, 20, 5)]
QUESTIONS = ["What is it?", "which colour does the thing have", "is there a dog"]
ANSWERS = [
    "red",
    "a dog",
    "yes",
    "no",
    "a very large green square",
    "two",
    "blue",
    "cat",
    "tree",
    "hat",
    "tea",
    "four",
    "mango",
]
WAYS = [{"among": ANSWERS}, {"max_length": 5}]


@pytest.fixture(scope="module")
def blip() -> LoadedBlip:
    torch.manual_seed(0)
    model = BlipVqa(tiny_config())
    spread(model)
    for name, parameter in model.named_parameters():
        # Fresh networks answer everything alike.
        if "crossattention.self.value.weight" in name:
            parameter.data.mul_(20)
    return LoadedBlip(model, open_tokenizer(None))


@pytest.mark.parametrize("how", WAYS, ids=["chosen", "written"])
@pytest.mark.parametrize("batch_size", [2, 8])
def test_many_are_answered_as_one_by_one(blip: LoadedBlip, how: dict, batch_size: int) -> None:
    alone = {
        (one, text): blip.answer(PICTURES[one], QUESTIONS[text], **how)[0]
        for one in range(3)
        for text in range(3)
    }
    assert len(set(alone.values())) > 1
    how = how | {"batch_size": batch_size}
    assert blip.answer(PICTURES, QUESTIONS, **how) == [alone[n, n] for n in range(3)]
    assert blip.answer(iter(PICTURES), QUESTIONS, **how) == [alone[n, n] for n in range(3)]
    assert blip.answer(PICTURES[1], QUESTIONS, **how) == [alone[1, n] for n in range(3)]
    assert blip.answer(PICTURES[0], QUESTIONS[0], among="yes") == ["yes"]
    assert blip.answer(PICTURES, QUESTIONS[2], **how) == [alone[n, 2] for n in range(3)]


@pytest.mark.parametrize(
    ("images", "questions", "how", "problem"),
    [
        (PICTURES, QUESTIONS[:2], {}, "3 pictures but 2 texts"),
        (iter(PICTURES), QUESTIONS[:2], {}, "more pictures than the 2 texts"),
        (PICTURES[:1], ["", "?"], {}, "texts[0]"),
        (PICTURES, QUESTIONS, {"among": []}, "no answer to choose from"),
        (PICTURES, QUESTIONS, {"among": ANSWERS, "shortlist": 0}, "shortlist is 0: must be at lea"),
        (PICTURES, QUESTIONS, {"among": [*ANSWERS, 1]}, "among[13] is no answer: 1"),
        (PICTURES, QUESTIONS, {"among": ["yes", " "]}, "among[1] is no answer: ' '"),
        (PICTURES, QUESTIONS, {"among": 3}, "among is int: must be one or many answers"),
        (PICTURES, None, {}, "questions is NoneType: must be one or many questions"),
        (PICTURES, QUESTIONS, {"num_beams": 0}, "num_beams is 0: must be at least 1"),
        (PICTURES, QUESTIONS, {"min_length": 9, "max_length": 8}, "min_length 9 is more than"),
        (PICTURES, QUESTIONS, {"max_length": 1}, "max_length is 1: must be 2 to"),
        (PICTURES, QUESTIONS, {"max_length": 9000}, "max_length is 9000: must be 2 to"),
        (PICTURES[0], QUESTIONS, {"batch_size": 0}, "batch_size is 0"),
        (b"no picture", QUESTIONS[0], {}, "not a usable picture"),
    ],
)
def test_what_cannot_be_answered_is_said(
    blip: LoadedBlip, images: object, questions: object, how: dict, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem.replace("[", r"\[").replace("]", r"\]")):
        blip.answer(images, questions, **how)


def test_questions_are_read_as_in_training(
    blip: LoadedBlip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More words than of captions, and marks leave no space behind."""
    read, asked = blip.model.read_questions, []

    def noted(ids: torch.Tensor, *others: torch.Tensor) -> QuestionStates:
        asked.append(ids)
        return read(ids, *others)

    monkeypatch.setattr(blip.model, "read_questions", noted)
    for question in "Half;red?", "w " * 31 + "dog":
        blip.answer(PICTURES[0], question, among="yes")
    for ids, text in zip(asked, ("halfred?", "w " * 31 + "dog"), strict=True):
        assert torch.equal(ids, blip.tokenizer.encode([text], 35)[0])


@pytest.mark.parametrize("shortlist", [1, 4])
def test_so_many_are_told_apart_by_all_their_tokens(
    blip: LoadedBlip, monkeypatch: pytest.MonkeyPatch, shortlist: int
) -> None:
    rank, given = blip.model.rank, []

    def noted(*what: object) -> torch.Tensor:
        given.append(what[-1])
        return rank(*what)

    monkeypatch.setattr(blip.model, "rank", noted)
    blip.answer(PICTURES, QUESTIONS, among=ANSWERS, shortlist=shortlist)
    assert given == [shortlist]


def test_answers_are_written_by_the_settings(
    blip: LoadedBlip, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, given = blip.model.generate, []

    def noted(read: QuestionStates, how: Beams) -> torch.Tensor:
        given.append(how)
        return generate(read, how)

    monkeypatch.setattr(blip.model, "generate", noted)
    how = {"num_beams": 2, "max_length": 6, "min_length": 4}
    blip.answer(PICTURES, QUESTIONS, **how)
    assert given == [Beams(**how)]


def test_others_do_not_answer(blip: LoadedBlip) -> None:
    other = LoadedBlip(Blip(tiny_config()), open_tokenizer(None))
    with pytest.raises(ConfigError, match="cannot answer questions"):
        other.answer(PICTURES, QUESTIONS)
    with pytest.raises(ConfigError, match="cannot caption"):
        blip.caption(PICTURES)
