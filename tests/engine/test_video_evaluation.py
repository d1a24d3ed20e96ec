"""Evaluation on videos: the numbers that the definitions give, one after the other."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from blip_model import Blip
from blip_model.vqa import BlipVqa
from engine.config import ConfigError, DataSection, EvaluateSection, ModelSection, RunConfig
from engine.data.augment import evaluation_view
from engine.data.videos import decode_video
from engine.evaluation.answer_accuracy import exact_accuracy
from engine.evaluation.metrics import retrieval_ranks
from engine.evaluation.run import evaluate
from engine.inference import load
from tests.shards import COLOURS, picture
from tests.tiny import spread, tiny_config, write_model
from tests.videos import write_video_questions, write_videos


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks with spread weights, lists of eight videos, and answers."""
    folder = tmp_path_factory.mktemp("videos")
    for name, kind in (("scorer", Blip), ("answerer", BlipVqa)):
        torch.manual_seed(0)
        model = kind(tiny_config())
        spread(model)
        write_model(folder / name, model)
    write_videos(folder, 16)
    write_video_questions(folder, 12)
    (folder / "list.json").write_text(json.dumps([*COLOURS, "light red"]))
    return folder


def results_of(world: Path, out: Path, task: str, data: str, **settings: Any) -> dict[str, Any]:
    weights = "scorer" if task == "video_retrieval" else "answerer"
    return evaluate(
        RunConfig(
            output_dir=str(out),
            precision="fp32",
            device="cpu",
            model=ModelSection(preset="tiny", checkpoint=str(world / weights)),
            data=DataSection(eval=str(world / data), workers=0, max_words=40, frames=4),
            evaluate=EvaluateSection(**({"batch_size": 3, "min_length": 1} | settings)),
        ),
        task,
    )


def views(world: Path, number: int) -> torch.Tensor:
    """[4, 3, 32, 32] of a video."""
    content = (world / f"video{number}.mp4").read_bytes()
    return torch.stack([evaluation_view(f, 32) for f in decode_video(content, 4, 10_000)])


@torch.no_grad()
def test_retrieval_scores_are_the_definitions(world: Path, tmp_path: Path) -> None:
    results = results_of(world, tmp_path, "video_retrieval", "videos.jsonl", shortlist=16)
    blip = load(world / "scorer", device="cpu")
    model, scores = blip.model, np.zeros((8, 16), np.float32)
    ids, mask = blip.encode(
        [json.loads(line)["caption"] for line in (world / "videos.jsonl").open()], 40
    )
    texts = model.text_feature(model.encode_text(ids, mask))
    for number in range(8):
        states = model.visual_encoder(views(world, number))
        feature = F.normalize(model.vision_proj(states[:, 0]).mean(0), dim=0)
        tokens = states.flatten(0, 1).expand(16, -1, -1)
        scores[number] = model.match(ids, mask, tokens)[:, 1] + texts @ feature
    owner = np.arange(16) % 8
    to_video, to_text = retrieval_ranks(scores, owner)
    metrics = results["metrics"]
    for way, ranks in (("text_to_video", to_video), ("video_to_text", to_text)):
        assert metrics[f"{way}_r1"] == pytest.approx(np.mean(ranks <= 1))
        assert metrics[f"{way}_r5"] == pytest.approx(np.mean(ranks <= 5))
        assert metrics[f"{way}_median_rank"] == pytest.approx(np.median(ranks))
        assert metrics[f"{way}_mean_rank"] == pytest.approx(np.mean(ranks))
    chance = results["chance"]
    assert chance["text_to_video_r1"] == pytest.approx(1 / 8)
    assert chance["text_to_video_mean_rank"] == pytest.approx(4.5)
    # Two of sixteen texts are right.
    assert chance["video_to_text_mean_rank"] == pytest.approx(17 / 3)
    assert (results["task"], results["count"], results["frames"]) == ("video_retrieval", 8, 4)
    for example in results["examples"]:
        top = scores[:, int(example["truth"].removeprefix("video"))]
        assert len(example["top"]) == 5 and example["rank"] <= 8, top
    again = results_of(
        world, tmp_path / "b", "video_retrieval", "videos.jsonl", shortlist=16, batch_size=8
    )
    assert again["metrics"] == pytest.approx(metrics)


@torch.no_grad()
def test_answers_are_the_definitions(world: Path, tmp_path: Path) -> None:
    settings = {"answer_list": str(world / "list.json")}
    results = results_of(world, tmp_path, "video_qa", "video_questions.json", **settings)
    given = json.loads((tmp_path / "predictions.json").read_text())
    blip, listed = load(world / "answerer", device="cpu"), [*COLOURS, "light red"]
    answer_ids, answer_mask = blip.tokenizer.encode(listed, 64)
    expected = []
    for number in range(12):
        ids, mask = blip.tokenizer.encode([f"what comes after the {COLOURS[number % 8]} one?"], 35)
        states = blip.model.encode_image(views(world, number % 8)).flatten(0, 1)[None]
        asked = blip.model.read_questions(ids, mask, states)
        expected.append(listed[int(blip.model.rank(asked, answer_ids, answer_mask, 128))])
    rows = [{"question_id": number, "answer": text} for number, text in enumerate(expected)]
    assert given == rows
    truth = [COLOURS[(number + 1) % 8] for number in range(12)]
    hits = [one == other for one, other in zip(expected, truth, strict=True)]
    assert results["metrics"]["accuracy"] == pytest.approx(np.mean(hits))
    assert results["chance"]["accuracy"] == pytest.approx(2 / 12)
    assert (results["task"], results["count"], results["bad_samples"]) == ("video_qa", 12, 0)
    written = results_of(world, tmp_path / "b", "video_qa", "video_questions.json", max_length=6)
    assert written["count"] == 12


def still() -> bytes:
    out = io.BytesIO()
    Image.open(io.BytesIO(picture(0))).save(out, "JPEG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "missing"), (b"", "empty"), (still(), "wrong_format"), (b"\0\0\1\0ftyp", "truncated")],
)
@pytest.mark.parametrize("task", ["video_retrieval", "video_qa"])
def test_a_bad_video_is_named_and_nothing_is_counted(
    world: Path, tmp_path: Path, content: bytes | None, reason: str, task: str
) -> None:
    row = {"video": "bad.mp4", "question": "what?", "caption": "a dog", "question_id": 1}
    (tmp_path / "list.json").write_text(json.dumps([row]))
    if content is not None:
        (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(ConfigError) as problem:
        results_of(world, tmp_path / "out", task, str(tmp_path / "list.json"), max_length=6)
    assert str(problem.value).startswith(f"{tmp_path / 'list.json'}: row 0: bad.mp4")
    assert str(problem.value).endswith(f": not a usable video: {reason}")
    assert not (tmp_path / "out" / "results.json").exists()


def test_exact_answers_are_those_that_are_equal_once_normalised() -> None:
    given = ["Dog", "two", "a cat", "dogs", ""]
    people = [("dog",), ("2",), ("cat",), ("dog",), ("dog",)]
    assert exact_accuracy(given, people) == pytest.approx(3 / 5)


def test_ranks_of_equal_scores_are_those_of_a_random_order() -> None:
    scores = np.array([[3.0, 1.0, 1.0], [2.0, 1.0, 5.0]])
    to_image, to_text = retrieval_ranks(scores, np.array([0, 1, 1]))
    assert to_image.tolist() == [1, 1.5, 1]
    assert to_text.tolist() == [1, 1]
    alike, best = retrieval_ranks(np.zeros((2, 4)), np.array([0, 0, 0, 1]))
    assert (alike.tolist(), best.tolist()) == ([1.5] * 4, [5 / 4, 5 / 2])
