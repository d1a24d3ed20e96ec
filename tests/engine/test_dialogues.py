"""Dialogues: reading VisDial's files, texts and batches of their rounds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import ConfigError, DataSection, ModelSection, RunConfig, TrainSection
from engine.data.batch import Batch
from engine.data.dialogue_set import Relevance
from engine.data.dialogue_text import WRONG, DialogueSlots, dialogue_rows
from engine.data.dialogues import open_dialogues
from engine.data.loader import Collate, build_loader
from engine.data.source import RawSample
from engine.data.tokenizer import open_tokenizer
from tests.shards import COLOURS, SHAPES, picture, write_dialogues

ROUNDS = [
    {"question": 0, "answer": 0, "answer_options": [2, 0, 1], "gt_index": 1},
    {"question": 1, "answer": 2, "answer_options": [0, 1, 2], "gt_index": 2},
]
DIALOG = {"image_id": 5, "caption": "A cat\non a mat.", "dialog": ROUNDS}
TEXTS = {"questions": ["is it big ?", "what colour"], "answers": ["no", "blue", "Red."]}
DENSE = {"image_id": 5, "round_id": 2, "gt_relevance": [0, 0.5, 1]}


def write(folder: Path, *dialogs: Any, split: str = "val2018", **texts: Any) -> str:
    """VisDial's JSON."""
    content = {"split": split, "data": {**TEXTS, **texts, "dialogs": list(dialogs)}}
    (folder / "visdial.json").write_text(json.dumps(content))
    return str(folder / "visdial.json")


def changed(number: int, **changes: Any) -> dict[str, Any]:
    """The dialogue with a round that is another, or lacks what is None."""
    rounds = [dict(one) for one in ROUNDS]
    rounds[number].update(changes)
    rounds[number] = {k: v for k, v in rounds[number].items() if v is not None}
    return DIALOG | {"image_id": 6, "dialog": rounds}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "row 1 is no dialogue: 'None'"),
        (DIALOG, "row 1 has the image_id 5 of row 0"),
        (DIALOG | {"image_id": "5"}, "row 1 has no 'image_id' that is a number"),
        (DIALOG | {"image_id": 6, "caption": 3}, "row 1 (image_id 6) has no 'caption'"),
        (DIALOG | {"image_id": 6, "dialog": []}, "row 1 (image_id 6) has no 'dialog'"),
        (changed(1, question=2), "round 2 has no 'question' that is the number of one of 2"),
        (changed(0, answer=None), "round 1 has no 'answer' that is the number of one of 3"),
        (changed(1, answer_options=None), "round 2 has no 'answer_options'"),
        (changed(1, answer_options=[1]), "round 2 has 'answer_options' that are no list of two"),
        (changed(1, answer_options=[1, 3]), "'answer_options' that are not numbers of 3 answers"),
        (changed(1, answer_options=[1, [2]]), "'answer_options' that are not numbers of 3"),
        (changed(1, gt_index=3), "round 2 has a 'gt_index' that is not the place of one of 3"),
        (changed(1, gt_index=None), "round 2 has no 'gt_index'"),
    ],
)
def test_a_wrong_row_is_named_with_its_file(tmp_path: Path, wrong: Any, message: str) -> None:
    path = write(tmp_path, DIALOG, wrong)
    with pytest.raises(ConfigError) as problem:
        open_dialogues(path)
    assert str(problem.value).startswith(f"{path}: row 1 ")
    assert message in str(problem.value)
    assert "\n" not in str(problem.value)


def test_what_is_not_visdials_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "visdial.json"
    for content in ("[]", "3", '{"data": []}', '{"data": {"questions": []}}'):
        path.write_text(content)
        with pytest.raises(ConfigError, match="visdial.json: expected VisDial's JSON, found no"):
            open_dialogues(str(path))
    for texts, message in (({"answers": [3]}, "row 0 of 'answers' is no text: '3'"),):
        with pytest.raises(ConfigError, match=message):
            open_dialogues(write(tmp_path, DIALOG, **texts))
    with pytest.raises(ConfigError, match="has no 'image' path, and the split is none of train"):
        open_dialogues(write(tmp_path, DIALOG, split="mine"))
    silent = DIALOG | {"dialog": [{"question": 0, "answer": 0}]}
    with pytest.raises(ConfigError, match="round 1 has no 'answer_options'"):
        open_dialogues(write(tmp_path, silent))


@pytest.mark.parametrize(
    ("split", "name"),
    [
        ("train", "COCO_train2014_000000000005.jpg"),
        ("train", "val2014/COCO_val2014_000000000005.jpg"),
        ("val2018", "VisualDialog_val2018/VisualDialog_val2018_000000000005.jpg"),
        ("test2018", "VisualDialog_test2018_000000000005.jpg"),
    ],
)
def test_pictures_have_their_official_names(tmp_path: Path, split: str, name: str) -> None:
    (tmp_path / "pictures" / name).parent.mkdir(parents=True)
    (tmp_path / "pictures" / name).write_bytes(picture(0))
    source = open_dialogues(write(tmp_path, DIALOG, split=split), str(tmp_path / "pictures"))
    assert [source.read(n).key for n in range(2)] == [f"{name} (round {n})" for n in (1, 2)]
    assert source.read(0).image == picture(0) and source.read(1).uid == "5/2"
    elsewhere = open_dialogues(write(tmp_path, DIALOG, split=split), str(tmp_path))
    assert elsewhere.read(0).problem == "missing"


def test_a_round_has_what_was_said_before_and_its_candidates(tmp_path: Path) -> None:
    source = open_dialogues(write(tmp_path, DIALOG))
    first, second = (source.read(number) for number in range(2))
    assert first.captions == ["A cat on a mat.\nis it big?"]
    assert second.captions == ["A cat on a mat.\nis it big?\nno\nwhat colour?"]
    assert first.answers == (("Red.", 0.0), ("no", 1.0), ("blue", 0.0))
    assert second.answers == (("no", 0.0), ("blue", 0.0), ("Red.", 1.0))
    # The last round of a test dialogue alone has candidates, and nobody knows its answer.
    asked = {"question": 1, "answer_options": [2, 1]}
    unsaid = dict.fromkeys(("answer_options", "gt_index"))
    for nothing, unknown in (({}, {}), (unsaid, {"answer": None, "gt_index": None})):
        said = {"question": 0, "answer": 1} | nothing
        tested = DIALOG | {"dialog": [said, asked | unknown]}
        source = open_dialogues(write(tmp_path, tested, split="test2018"), answered=False)
        (only,) = (source.read(number) for number in range(len(source)))
        assert only.captions == ["A cat on a mat.\nis it big?\nblue\nwhat colour?"]
        assert (only.uid, only.answers) == ("5/2", (("Red.", 0.0), ("blue", 0.0)))
    with pytest.raises(ConfigError, match="round 2 has no 'gt_index'"):
        open_dialogues(write(tmp_path, tested))


def test_the_fingerprint_is_that_of_all_that_is_read(tmp_path: Path) -> None:
    changes = (DIALOG, changed(0, gt_index=0), changed(1, answer=0), DIALOG | {"caption": "a"})
    prints = {open_dialogues(write(tmp_path, one)).fingerprint for one in changes}
    prints.add(open_dialogues(write(tmp_path, DIALOG, answers=["no", "blue", "red"])).fingerprint)
    assert len(prints) == 5
    assert open_dialogues(write(tmp_path, DIALOG)).fingerprint in prints


def test_long_dialogues_lose_their_oldest_rounds_then_the_captions_end() -> None:
    tokenizer = open_tokenizer(None)
    lines = ["a cat on a mat", "is it big?", "no", "is it old?", "very very old", "what colour?"]

    def texts(max_tokens: int, answers: list[str] | None = None) -> list[str]:
        rows = dialogue_rows(tokenizer, lines, answers or ["red", "dark blue"], max_tokens)
        assert all(len(row) <= max_tokens for row in rows)
        words = [[tokenizer._pieces.id_to_token(piece) for piece in row] for row in rows]
        return [" ".join(row).replace("[CLS] ", "").replace(" ?", "?") for row in words]

    caption, last = "a cat on a mat [SEP]", "what colour? {} [SEP]"
    one, two = "is it big? no [SEP]", "is it old? very very old [SEP]"
    everything = f"{caption} {one} {two} {last}"
    assert texts(64) == [everything.format(word) for word in ("red", "dark blue")]
    assert texts(27) == texts(64)
    # One too many for the longer answer: the shorter one's text loses its round, too.
    fewer = f"{caption} {two} {last}"
    assert texts(26) == texts(21) == [fewer.format(word) for word in ("red", "dark blue")]
    assert texts(20) == [f"{caption} {last}".format(word) for word in ("red", "dark blue")]
    assert texts(10) == [f"a cat [SEP] {last}".format(word) for word in ("red", "dark blue")]
    assert texts(7) == [f"[SEP] {last}".format(word) for word in ("red", "dark")]
    assert texts(64, [""]) == [everything.format("").replace("  ", " ")]


def run_config(data: Path, **changes: Any) -> RunConfig:
    """A tiny run on dialogues."""
    return RunConfig(
        model=ModelSection(preset="tiny"),
        data=replace(DataSection(train=str(data), workers=0), **changes),
        train=TrainSection(global_batch_size=8, negative_group_size=4),
    )


def batches(config: RunConfig, rank: int, ranks: int, start: int, stop: int) -> list[Batch]:
    """A rank's batches of some steps."""
    source, tokenizer = open_dialogues(config.data.train), open_tokenizer(None)
    steps = {"start_step": start, "stop_step": stop, "slots": DialogueSlots}
    return list(build_loader(config, source, tokenizer, rank=rank, world_size=ranks, **steps))


def test_ranks_and_resuming_do_not_change_the_global_batches(tmp_path: Path) -> None:
    config = run_config(write_dialogues(tmp_path, 16))
    whole = batches(config, 0, 1, 0, 4)
    halves = [batches(config, rank, 2, 2, 4) for rank in range(2)]
    for step in (0, 1):
        parts = [half[step] for half in halves]
        assert sum((part.key for part in parts), []) == whole[2 + step].key
        for name in ("image", "label"):
            both = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(both, getattr(whole[2 + step], name))
        lengths = torch.cat([part.attention_mask.sum(1) for part in parts])
        assert torch.equal(lengths, whole[2 + step].attention_mask.sum(1))


def test_a_right_answer_stands_before_wrong_ones_that_change(tmp_path: Path) -> None:
    config, tokenizer = run_config(write_dialogues(tmp_path, 4)), open_tokenizer(None)
    wrong: dict[str, set[str]] = {}
    for batch in batches(config, 0, 1, 0, 8):
        assert batch.image.shape == (8, 3, 32, 32) and batch.image.dtype == torch.uint8
        assert batch.answers is None
        assert batch.label.view(8, 1 + WRONG).tolist() == [[1] + [0] * WRONG] * 8
        words = tokenizer.decode(batch.input_ids.where(batch.input_ids != 102, 1012))
        ends = [text.rpartition("?")[2].strip(" .") for text in words]
        for row, key in enumerate(batch.key):
            name, number = key.removesuffix(")").split(".png (round ")
            shown = int(name) % 16
            truth = COLOURS[shown % 8] if number == "1" else SHAPES[shown // 8]
            right, *others = ends[row * (1 + WRONG) : (row + 1) * (1 + WRONG)]
            assert right == truth and truth not in others and len({*others}) == WRONG
            wrong.setdefault(key, set()).update(others)
    assert len(wrong) == 8 and all(len(drawn) > WRONG for drawn in wrong.values())


def test_what_reads_like_the_right_answer_is_not_wrong(tmp_path: Path) -> None:
    data = write_dialogues(tmp_path, 1)
    slots = DialogueSlots(run_config(data), open_dialogues(str(data)))
    given = [("Yes!", 1.0), ("yes", 0.0), ("yes.", 0.0), ("no", 0.0), ("maybe", 0.0)]
    raw = RawSample("x", "x", "", ["a"], 0, None, answers=tuple(given))
    for slot in range(8):
        right, *others = slots.answers(raw, slot)
        assert right == ("yes", 1.0) and {*others} == {("no", 0.0), ("maybe", 0.0)}
    alike = slots.answers(replace(raw, answers=raw.answers[:3]), 0)
    assert {*alike[1:]} == {("yes", 0.0)} and len(alike) == 1 + WRONG


def test_bounded_batches_have_few_shapes_and_the_same_tokens(tmp_path: Path) -> None:
    config = run_config(write_dialogues(tmp_path, 4), max_tokens=40)
    there = DialogueSlots(config, open_dialogues(config.data.train))
    samples, made = [there[slot] for slot in range(4)], []
    for bounded in (False, True):
        collate = there.collate(open_tokenizer(None), "", bounded)
        assert isinstance(collate, Collate)
        made.append(collate(samples))
    plain, padded = made
    assert padded.input_ids.shape[1] % 4 == 0
    assert plain.capacity is None and padded.capacity >= plain.attention_mask.sum()
    length = plain.input_ids.shape[1]
    assert torch.equal(padded.input_ids[:, :length], plain.input_ids)
    assert padded.attention_mask.sum() == plain.attention_mask.sum()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "is no annotation: '3'"),
        (DENSE | {"round_id": "2"}, "has no 'round_id' that is a number"),
        (DENSE | {"image_id": 7, "gt_relevance": [2]}, "has no 'gt_relevance' with a share from 0"),
        (DENSE, "is about the round of row 0"),
    ],
)
def test_a_wrong_dense_annotation_is_named(tmp_path: Path, wrong: Any, message: str) -> None:
    path = tmp_path / "dense.json"
    path.write_text(json.dumps([DENSE, wrong]))
    with pytest.raises(ConfigError) as problem:
        Relevance.read(path)
    assert str(problem.value).startswith(f"{path}: row 1 {message}")
    # Training's are named otherwise.
    named = {k.removeprefix("gt_"): v for k, v in DENSE.items()}
    path.write_text(json.dumps([named]))
    assert Relevance.read(path).of_round["5/2"][1].tolist() == [0, 0.5, 1]
