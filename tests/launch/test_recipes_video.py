"""Recipes of videos: the paper's protocol, on lists as the original and the data sets have them."""

import json
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from blip_model.vqa import BlipVqa
from launch import evaluate, finetune
from launch.cli import parse
from tests.commands import call
from tests.ranks import ROOT
from tests.tiny import tiny_config, write_model
from tests.videos import write_video_questions, write_videos

RECIPES = ROOT / "launch" / "recipes"


def resolved(name: str) -> evaluate.EvaluateConfig | finetune.FinetuneConfig:
    tunes = name.startswith("finetune")
    kind = finetune.FinetuneConfig if tunes else evaluate.EvaluateConfig
    words = ["--config", str(RECIPES / f"{name}.yaml")]
    return parse(kind, words, description="", examples="")


@pytest.mark.parametrize(
    ("name", "frames", "side", "words"),
    [("video_retrieval_msrvtt", 8, 384, 40), ("video_qa", 16, 480, 50)],
)
def test_zero_shot_is_the_papers(
    name: str, frames: int, side: int, words: int, tmp_path: Path
) -> None:
    """Li et al. 2022, section 5.6, and the original's configs/retrieval_msrvtt.yaml."""
    config = resolved(f"evaluate_{name}")
    assert (config.data.frames, config.data.max_words) == (frames, words)
    assert (config.model.image_size, config.precision) == (side, "fp32")
    assert config.evaluate.shortlist == 128
    answers = config.task == "video_qa"
    torch.manual_seed(0)
    model = (BlipVqa if answers else Blip)(tiny_config())
    write_model(tmp_path / "weights", model)
    data = (write_video_questions if answers else write_videos)(tmp_path, 8)
    given = ["--config", RECIPES / f"evaluate_{name}.yaml", "--data.image_root", tmp_path]
    given += ["--model.checkpoint", tmp_path / "weights", "--device", "cpu"]
    given += ["--data.eval", data, "--model.image_size", 32, "--output_dir", tmp_path / "out"]
    done = call(evaluate.main, *given)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["count"], results["frames"]) == (8, frames)
    chance = results["chance"]["accuracy" if answers else "text_to_video_r1"]
    assert chance == pytest.approx(1 / 8)


def test_tuning_sees_as_many_frames_as_the_paper() -> None:
    answering, finding = resolved("finetune_video_qa"), resolved("finetune_video_retrieval")
    assert (answering.task, answering.data.frames) == ("video_qa", 16)
    assert (answering.train.learning_rate, answering.train.schedule) == (2e-5, "cosine_epoch")
    assert (finding.task, finding.data.frames) == ("video_retrieval", 8)
    assert (finding.train.learning_rate, finding.model.momentum) == (1e-5, 0.995)
    assert (finding.data.max_words, finding.evaluate.shortlist) == (40, 128)
