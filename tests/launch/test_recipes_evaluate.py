"""Recipes of evaluation: the paper's protocol, on lists as the original has them."""

import json
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from engine.evaluation.classification import class_of
from launch import evaluate
from launch.cli import parse
from tests.commands import call
from tests.ranks import ROOT
from tests.shards import caption, picture
from tests.tiny import tiny_config, write_model

RECIPES = ROOT / "launch" / "recipes"


@pytest.mark.parametrize(("data", "k"), [("coco", 256), ("flickr", 128)])
def test_retrieval_is_the_papers(data: str, k: int, tmp_path: Path) -> None:
    """Li et al. 2022, section 5.1, and the original's configs/retrieval_{coco,flickr}.yaml."""
    recipe = str(RECIPES / f"evaluate_retrieval_{data}.yaml")
    config = parse(evaluate.EvaluateConfig, ["--config", recipe], description="", examples="")
    assert (config.task, config.model.image_size, config.evaluate.shortlist) == (
        "retrieval",
        384,
        k,
    )
    assert (config.data.max_words, config.precision) == (30, "fp32")
    # {image, caption: [five]}, no ids: as coco_karpathy_test.json and flickr30k_test.json are.
    rows = []
    for number in range(8):
        name = f"val2014/COCO_val2014_{number:012d}.jpg" if data == "coco" else f"{number}.jpg"
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, form="JPEG"))
        rows.append({"image": name, "caption": [f"{caption(number)} {n}" for n in range(5)]})
    (tmp_path / "test.json").write_text(json.dumps(rows))
    torch.manual_seed(0)
    model = Blip(tiny_config())
    write_model(tmp_path / "weights", model)
    words = ["--config", recipe, "--model.checkpoint", tmp_path / "weights", "--device", "cpu"]
    words += ["--data.eval", tmp_path / "test.json", "--data.image_root", tmp_path / "pictures"]
    words += ["--model.image_size", 32, "--output_dir", tmp_path / "out"]
    done = call(evaluate.main, *words)
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["count"] == 8
    # Weights that were drawn know nothing.
    assert results["metrics"]["text_to_image_r1"] < 0.5
    assert results["metrics"]["text_to_image_r10"] == 1
    assert results["chance"]["text_to_image_r1"] == pytest.approx(1 / 8)


def test_classes_of_drawings_are_in_their_names() -> None:
    recipe = str(RECIPES / "evaluate_openmoji_tones.yaml")
    config = parse(evaluate.EvaluateConfig, ["--config", recipe], description="", examples="")
    classes = config.evaluate.classes or []
    assert (config.task, len(classes)) == ("classification", 5)
    names = {
        "woman elf medium-light skin tone": [1],
        "kiss man man medium-dark skin tone medium skin tone": [],
        "white medium-small square": [],
        "raised fist dark skin tone": [4],
    }
    for name, expected in names.items():
        found = class_of(classes, [name], True)
        assert ([found] if found >= 0 else []) == expected
