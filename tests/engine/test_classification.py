"""Zero-shot classification with a tiny network, against its definition spelled out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from blip_model import Blip
from engine.config import ConfigError, DataSection, EvaluateSection, ModelSection, RunConfig
from engine.data.class_folders import ClassFolders, has_classes
from engine.data.open_source import open_source
from engine.evaluation.classification import TEMPLATES, _judged, class_features
from engine.evaluation.confusion import draw_confusion
from engine.evaluation.run import evaluate
from engine.inference import LoadedBlip, load
from engine.share import Share
from launch import evaluate as command
from tests.commands import call
from tests.shards import picture, write_shards
from tests.tiny import spread, tiny_config, write_model

NAMES = ["black cat", "ice-cream", "old man"]
TWO = ("a {} here", "{}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, the same as a list, shards, and weights."""
    folder = tmp_path_factory.mktemp("classes")
    rows = []
    for number in range(9):
        name = ["Black_cat", "ice-cream", "old man"][number % 3]
        path = folder / "set" / name / "deep" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(3 * number))
        label = {"label": NAMES[number % 3]} if number % 2 else {"caption": NAMES[number % 3]}
        rows.append({"image": str(path.relative_to(folder)), **label})
    (folder / "set" / "old man" / "text.png").write_text("a picture that is text")
    (folder / "set" / "notes.txt").write_text("beside them")
    (folder / "set" / "no_pictures").mkdir()
    (folder / "list.json").write_text(json.dumps(sorted(rows, key=lambda row: row["image"])))
    write_shards(folder / "shards", 12)
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    write_model(folder / "weights", model)
    return folder


@pytest.fixture(scope="module")
def blip(folder: Path) -> LoadedBlip:
    return load(folder / "weights", device="cpu")


def results_of(folder: Path, output: Path, place: str = "set", **settings: Any) -> dict[str, Any]:
    config = RunConfig(
        output_dir=str(output),
        precision="fp32",
        device="cpu",
        model=ModelSection(preset="tiny", checkpoint=str(folder / "weights")),
        data=DataSection(eval=str(folder / place), max_bad_fraction=0.3),
        evaluate=EvaluateSection(**({"batch_size": 4} | settings)),
    )
    evaluate(config, "classification")
    results = json.loads((output / "results.json").read_text())
    assert results.pop("seconds") > 0
    return results


def test_features_of_classes_are_clips(blip: LoadedBlip) -> None:
    """One sentence at a time: unit vectors, their mean, at length one again."""
    found = class_features(blip, NAMES, TWO, Share())
    for name, feature in zip(NAMES, found, strict=True):
        mean = sum(blip.embed_texts(t.replace("{}", name))[0].double() for t in TWO) / len(TWO)
        torch.testing.assert_close(feature.double(), mean / mean.norm(), rtol=0, atol=1e-5)
    assert found.std(0).max() > 1e-3
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_results_are_their_definition(folder: Path, blip: LoadedBlip, tmp_path: Path) -> None:
    results = results_of(folder, tmp_path / "out", templates=list(TWO))
    classes = class_features(blip, NAMES, TWO, Share())
    right, confusion = 0, np.zeros((3, 3), int)
    for number in range(9):
        feature = blip.embed_images(picture(3 * number))[0]
        answer = max(range(3), key=lambda n: float(feature @ classes[n]))
        confusion[number % 3, answer] += 1
        right += answer == number % 3
    assert results["classes"] == NAMES
    assert results["confusion"] == confusion.tolist()
    assert results["metrics"]["accuracy_top1"] == pytest.approx(right / 9)
    assert results["metrics"]["accuracy_mean_of_classes"] == pytest.approx(right / 9)
    assert results["metrics"]["accuracy_top5"] == results["chance"]["accuracy_top5"] == 1
    assert results["chance"]["accuracy_top1"] == pytest.approx(1 / 3)
    assert (results["count"], results["left_out"], results["bad_samples"]) == (9, 0, 1)
    for example in results["examples"]:
        assert Path(example["key"]).parts[0].replace("_", " ").lower() == example["truth"]
        assert example["scores"] == sorted(example["scores"], reverse=True)
    with Image.open(tmp_path / "out" / "confusion.png") as image:
        assert image.format == "PNG" and image.width < 400
    listed = results_of(folder, tmp_path / "list", "list.json", templates=list(TWO))
    assert listed["confusion"] == results["confusion"]
    assert listed["metrics"] == results["metrics"]


def test_classes_are_looked_for_in_texts(folder: Path, tmp_path: Path) -> None:
    """Captions are "a red square number 0" and so on; numbers 10 and 1 are not the same word."""
    names = ["Number 1", "red", "green square", "purple"]
    results = results_of(folder, tmp_path, "shards", classes=names)
    assert results["classes"] == ["number 1", "red", "green square", "purple"]
    # Green is also number 1: of several classes, so of none.
    assert [sum(row) for row in results["confusion"]] == [0, 2, 0, 1]
    assert (results["count"], results["left_out"]) == (3, 9)
    assert {example["truth"] for example in results["examples"]} == {"red", "purple"}


def test_equal_scores_are_chance() -> None:
    found = _judged(np.zeros((4, 10), np.float32), np.array([0, 3, 3, 9]), list("abcdefghij"))
    for name, value in found["metrics"].items():
        assert value == pytest.approx(found["chance"][name]), name
    scores = np.eye(10, dtype=np.float32)[[1, 3, 3, 9]]
    found = _judged(scores, np.array([0, 3, 3, 9]), list("abcdefghij"))
    assert found["metrics"]["accuracy_top1"] == 0.75
    assert found["metrics"]["accuracy_mean_of_classes"] == pytest.approx(2 / 3)
    # The first is one of nine equal ones behind the best: four of them are among the first five.
    assert found["metrics"]["accuracy_top5"] == pytest.approx((3 + 4 / 9) / 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data.eval shards", "chance 0.083"),
        ("--data.eval several.json", "b.png has 2 texts: set evaluate.classes"),
        ("--data.eval one", "1 class: classification needs two"),
        ("--data.eval shards --evaluate.classes [red]", "1 class: classification needs two"),
        ("--data.eval shards --evaluate.classes [x,y]", "no picture's text holds the words"),
        ("--data.eval shards --evaluate.classes [red,Red]", "evaluate.classes: 'red' is there twi"),
        ("--data.eval shards --evaluate.classes [red,.]", "a name is not usable: empty_caption"),
        ("--data.eval set --evaluate.templates [a]", "evaluate.templates: 'a' must hold {} once"),
        ("--data.eval empty", "empty: no .tar shard in this folder"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    monkeypatch.chdir(folder)
    for name in ("one/class", "empty/folder"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("one/class/a.png", "b.png"):
        (folder / name).write_bytes(picture(0))
    rows = [{"image": "b.png", "caption": ["a", "b"]}]
    (folder / "several.json").write_text(json.dumps(rows))
    given = "--model.preset tiny --model.checkpoint weights --device cpu --precision fp32"
    output = ["--output_dir", str(tmp_path / "out")]
    done = call(command.main, "--task", "classification", *given.split(), *words.split(), *output)
    if message.startswith("chance"):
        assert done.code == 0 and message in done.out
    else:
        assert done.code == 2 and message in done.err and done.err.count("\n") == 1


def test_a_folder_of_classes_is_a_source(folder: Path, tmp_path: Path) -> None:
    source = open_source(str(folder / "set"), classes=True)
    assert isinstance(source, ClassFolders)
    found = [source.read(number) for number in range(len(source))]
    assert [one.captions for one in found[::3]] == [
        ["Black cat"],
        ["ice-cream"],
        ["old man"],
        ["old man"],
    ]
    assert found[0].key == "Black_cat/deep/0.png" and found[0].image == picture(0)
    assert len({one.image_id for one in found}) == len(found) == 10
    assert source.fingerprint == open_source(str(folder / "set"), classes=True).fingerprint
    with pytest.raises(ConfigError, match="no .tar shard in this folder"):
        open_source(str(folder / "set"))
    (tmp_path / "a").mkdir()
    assert not has_classes(tmp_path)
    (tmp_path / "a" / "x.jpeg").write_bytes(picture(0))
    assert has_classes(tmp_path)


def test_classes_may_be_links_and_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("set/st. john", "set/dog", "else/where/deep"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x.png").write_bytes(picture(0))
    (tmp_path / "set" / "zebra").symlink_to(tmp_path / "else" / "where")
    source = open_source(str(tmp_path / "set"), classes=True)
    found = [(one.key, one.captions) for one in map(source.read, range(len(source)))]
    assert found[2] == ("zebra/deep/x.png", ["zebra"]) and len(found) == 3
    shutil.copytree(tmp_path / "set" / "dog", tmp_path / "set" / "st john")
    with pytest.raises(ConfigError, match="'st john' and 'st. john' are one class to a model"):
        open_source(str(tmp_path / "set"), classes=True)
    (tmp_path / "set" / "st john").rename(tmp_path / "set" / "!")
    with pytest.raises(ConfigError, match="no words are in the name of the folder '!'"):
        open_source(str(tmp_path / "set"), classes=True)


def test_pictures_that_are_in_no_class_are_named(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(picture(0))
    with pytest.raises(ConfigError, match="no .tar shard in .*and no folder of pictures for each"):
        open_source(str(tmp_path), classes=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(picture(0))
    (tmp_path / "a\nb.jpg").write_bytes(picture(0))
    with pytest.raises(ConfigError, match=r"a\\nb.jpg stands beside the folders of the classes"):
        open_source(str(tmp_path), classes=True)
    for path in tmp_path.glob("*.*"):
        path.unlink()
    assert len(open_source(str(tmp_path), classes=True)) == 1


def test_large_matrices_are_cut(tmp_path: Path) -> None:
    names = [f"a class with a rather long name, {n}" for n in range(60)]
    draw_confusion(names, np.eye(60, dtype=int).tolist(), tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.width < 1400
        # The diagonal is full, beside it there is nothing.
        assert image.getpixel((190 + 4, 190 + 4)) == (47, 111, 178)
        assert image.getpixel((190 + 28 + 4, 190 + 4)) == (255, 255, 255)
