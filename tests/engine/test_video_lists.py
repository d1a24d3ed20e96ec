"""Lists of videos and of questions about them: reading, and slots."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import ConfigError, DataSection, ModelSection, RunConfig, TrainSection
from engine.data.loader import build_loader
from engine.data.tokenizer import open_tokenizer
from engine.data.video_files import read_video
from engine.data.video_pairs import VideoSlots, open_videos
from engine.data.video_questions import VideoQuestionSlots, open_video_questions
from tests.videos import clip, encode, shades, write_video_questions, write_videos

PAIR = {"clip_name": "video0", "caption": "a dog"}
ASKED = {"video_id": 0, "question": "what?", "answer": "dog", "id": 7}


def run_config(data: Path, **changes: Any) -> RunConfig:
    """A tiny run on four frames of videos."""
    return RunConfig(
        model=ModelSection(preset="tiny"),
        data=replace(DataSection(train=str(data), workers=0, frames=4), **changes),
        train=TrainSection(global_batch_size=8, negative_group_size=4),
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (PAIR | {"clip_name": ""}, "has no 'video' or 'clip_name'"),
        (PAIR | {"clip_name": ["a"]}, "has no 'video' or 'clip_name'"),
        (PAIR | {"caption": " "}, "(video0) has no 'caption'"),
        (PAIR | {"caption": []}, "(video0) has no 'caption'"),
        (PAIR | {"caption": ["a", 3]}, "(video0) has no 'caption'"),
        ({"clip_name": "video0"}, "(video0) has no 'caption'"),
        ("video0", "is no video with a caption: 'video0'"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_wrong_row_is_named_with_its_file(
    tmp_path: Path, row: Any, message: str, suffix: str
) -> None:
    path, rows = tmp_path / f"list{suffix}", [PAIR, row]
    lines = "\n".join(json.dumps(one) for one in rows)
    path.write_text(json.dumps(rows) if suffix == ".json" else lines)
    with pytest.raises(ConfigError) as problem:
        open_videos(str(path))
    assert str(problem.value) == f"{path}: row 1 {message}"


@pytest.mark.parametrize(
    ("row", "needed", "message"),
    [
        (ASKED | {"video_id": None}, "answer", "has no 'video' or 'video_id'"),
        (ASKED | {"question": ""}, "answer", "(0) has no 'question'"),
        (ASKED | {"answer": None}, "answer", "(0) has no 'answer'"),
        (ASKED | {"answer": ["dog"]}, "question_id", "(0) has an 'answer' that is not a text"),
        (ASKED | {"id": 1}, "question_id", "has the question_id 1 of row 0"),
        (3, "answer", "is no question: '3'"),
    ],
)
def test_a_wrong_question_is_named_with_its_file(
    tmp_path: Path, row: Any, needed: str, message: str
) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([ASKED | {"id": 1}, row]))
    with pytest.raises(ConfigError) as problem:
        open_video_questions(str(path), needed=needed)
    assert str(problem.value) == f"{path}: row 1 {message}"


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(f"{json.dumps(PAIR)}\n\n{{'clip_name'\n")
    with pytest.raises(ConfigError, match="list.jsonl: not readable as json: line 3: ") as problem:
        open_videos(str(path))
    assert "\n" not in str(problem.value)
    with pytest.raises(ConfigError, match="questions about videos come in a .json or .jsonl file"):
        open_video_questions(str(tmp_path))


def test_videos_are_found_as_the_data_sets_name_them(tmp_path: Path) -> None:
    content = clip(0, 1)
    for name in ("video6513.mp4", "vid12.avi", "a_b.mp4", "below/c.webm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    names = [6513, "6513", "video6513", 12, "a_b", "a_b.mp4", "below/c"]
    rows = [ASKED | {"video_id": name, "id": number} for number, name in enumerate(names)]
    rows.append({"video": "a_b.mp4", "question": "what?", "answer": "dog", "question_id": "x"})
    rows += [ASKED | {"video_id": name, "id": name} for name in ("none", 7, "x" * 300)]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    source = open_video_questions(str(tmp_path / "list.json"))
    read = [source.read(number) for number in range(len(source))]
    assert all(one.image == content and one.problem is None for one in read[:8])
    assert [one.problem for one in read[8:]] == ["missing", "missing", "unreadable_name"]
    assert read[0].answers == (("dog", 1.0),)
    assert (read[0].people, read[7].uid) == (("dog",), '"x"')


def test_captions_of_a_video_belong_together(tmp_path: Path) -> None:
    source = open_videos(str(write_videos(tmp_path, 10)))
    ids = [source.read(number).image_id for number in range(10)]
    assert (len(set(ids)), ids[8], ids[9]) == (8, ids[0], ids[1])


@pytest.mark.parametrize("kind", [VideoSlots, VideoQuestionSlots])
def test_ranks_do_not_change_the_global_batches(tmp_path: Path, kind: type) -> None:
    write = write_videos if kind is VideoSlots else write_video_questions
    config = run_config(write(tmp_path, 16))
    source, tokenizer = kind.open_source(config.data.train), open_tokenizer(None)
    steps = {"start_step": 1, "stop_step": 2, "slots": kind}
    (whole,), *halves = (
        list(build_loader(config, source, tokenizer, rank=rank, world_size=ranks, **steps))
        for rank, ranks in ((0, 1), (0, 2), (1, 2))
    )
    assert whole.image.shape == (8, 4, 3, 32, 32)
    assert torch.equal(whole.image, torch.cat([half[0].image for half in halves]))
    assert (whole.answers is not None) == (kind is VideoQuestionSlots)
    assert not any(whole.reason)


def test_videos_are_read_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded ones may be large: a batch of them does not lie in memory before it is decoded."""
    path, steps = write_videos(tmp_path, 8), []
    source = open_videos(str(path))
    slots, read, view = VideoSlots(run_config(path), source), source.read, VideoSlots.view
    monkeypatch.setattr(source, "read", lambda n: (steps.append("read"), read(n))[1])
    monkeypatch.setattr(VideoSlots, "view", lambda *of: (steps.append("view"), view(*of))[1])
    assert len(slots.__getitems__(list(range(8)))) == 8
    assert steps == ["read", "view"] * 8


def test_frames_are_augmented_alike(tmp_path: Path) -> None:
    still = encode([shades(2)[1]] * 8)
    (tmp_path / "video0.mp4").write_bytes(still)
    (tmp_path / "list.json").write_text(json.dumps([PAIR] * 4))
    config = run_config(tmp_path / "list.json", min_crop_scale=0.2)
    slots = VideoSlots(config, open_videos(config.data.train))
    views = torch.stack([slots[slot].image for slot in range(4)])
    assert (views.int() - views[:, :1].int()).abs().max() < 8
    assert not torch.equal(views[0], views[1])


def test_a_bad_video_keeps_its_slot(tmp_path: Path) -> None:
    path = write_videos(tmp_path, 8)
    for number in range(4):
        whole = (tmp_path / f"video{number}.mp4").read_bytes()
        (tmp_path / f"video{number}.mp4").write_bytes(whole[:-50] if number else b"")
    source = open_videos(str(path))
    slots = VideoSlots(run_config(path), source)
    reasons = {slots[slot].key: slots[slot].reason for slot in range(8)}
    torn = {f"video{number}": "truncated" for number in (1, 2, 3)}
    assert reasons == {"video0": "empty", **torn} | {f"video{n}": "" for n in range(4, 8)}
    assert all(slots[slot].image.shape == (4, 3, 32, 32) for slot in range(8))


@pytest.mark.parametrize("name", ["0001", "0001.mp4", "video1", "1"])
def test_videos_are_found_by_number_or_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "0001.mp4").write_bytes(b"one")
    (tmp_path / "video1.avi").write_bytes(b"another")
    content, problem = read_video(tmp_path, name)
    assert problem is None and content == (b"one" if name.startswith("0") else b"another")
