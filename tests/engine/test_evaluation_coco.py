"""Captioning evaluated on the files that COCO and NoCaps give out."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_model import Blip
from engine.config import ConfigError, EvaluateSection
from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from engine.data.tokenizer import open_tokenizer
from engine.evaluation.caption import evaluate_captions
from engine.evaluation.metrics import bleu, cider_d
from engine.inference import LoadedBlip
from tests.shards import caption, picture
from tests.tiny import spread, tiny_config

COUNT = 7


def test_captions_of_cocos_and_nocaps_own_files(tmp_path: Path) -> None:
    """Images and annotations apart; figures of each domain; references as they are written."""
    domains = ["in-domain", "near-domain", "out-domain"]
    images = [
        {"id": 100 + n, "file_name": f"{n}.png", "domain": domains[n % 3]} for n in range(COUNT)
    ]
    texts = [{"image_id": 100 + n, "caption": caption(n)} for n in range(COUNT)]
    texts += [{"image_id": 100 + n, "caption": f"It's number {n}!"} for n in range(0, COUNT, 2)]
    folder = tmp_path / "nocaps"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"{number}.png").write_bytes(picture(number))
    place = folder / "nocaps.json"
    place.write_text(json.dumps({"images": images, "annotations": texts}))
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    pairs = EvaluationSet(open_source(str(place)), 32, 30, 10_000)
    settings = EvaluateSection(batch_size=4, max_length=9)
    results = evaluate_captions(LoadedBlip(model, open_tokenizer(None)), pairs, settings)
    examples = results["examples"]
    assert examples[2]["references"] == [caption(2), "It's number 2!"]
    assert [example["image_id"] for example in examples] == [100 + n for n in range(COUNT)]
    for number, domain in enumerate(domains):
        mine = examples[number::3]
        chosen = [one["generated"] for one in mine], [one["references"] for one in mine]
        name = domain.replace("-", "_")
        assert results["metrics"][f"cider_{name}"] == cider_d(*chosen)
        assert results["metrics"][f"bleu4_{name}"] == bleu(*chosen)
    # Karpathy's list names no ids: the files' names do.
    row = {"image": "val2014/COCO_val2014_000000391895.jpg", "caption": ["a", "b"]}
    place.write_text(json.dumps([row, {"image": "x_000000391895.jpg", "img_id": 7, "caption": ""}]))
    source = open_source(str(place))
    assert [source.read(number).image_id for number in (0, 1)] == [391895, 7]
    place.write_text(json.dumps({"images": [{"id": 1}], "annotations": []}))
    with pytest.raises(ConfigError, match="row 0 of 'images' has no 'id' and 'file_name'"):
        open_source(str(place))


def test_pictures_without_captions_are_captioned_and_not_scored(tmp_path: Path) -> None:
    """The original's nocaps_val.json, and the image lists of hidden test sets."""
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    rows = [{"image": f"{number}.png", "img_id": 10 + number} for number in range(4)]
    images = [{"id": row["img_id"], "file_name": row["image"]} for row in rows]
    for name, content in (("rows", rows), ("images", {"images": images})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match="has no 'caption'|it has no captions"):
            open_source(str(tmp_path / f"{name}.json"))
        results = captioned(tmp_path / f"{name}.json")
        assert (results["count"], results["bad_samples"]) == (4, 0)
        assert (results["metrics"], results["chance"], results["cases"]) == ({}, {}, None)
        assert [row["image_id"] for row in results["predictions"]] == [10, 11, 12, 13]
    rows[1]["caption"], rows[3]["caption"] = ["a cat", "two cats"], "a dog"
    (tmp_path / "some.json").write_text(json.dumps(rows))
    results = captioned(tmp_path / "some.json")
    generated = [row["caption"] for row in results["predictions"]]
    scored = [generated[1], generated[3]], [["a cat", "two cats"], ["a dog"]]
    assert results["metrics"]["cider"] == cider_d(*scored)
    assert len(results["chance"]) == len(results["metrics"]) == 6
    assert results["cases"]["count"] == 2
    keys = {
        one["pictures"][0]["key"] for kind in ("best", "worst") for one in results["cases"][kind]
    }
    assert keys == {"1.png", "3.png"}


def test_hidden_captions_are_no_reason_and_no_picture_is_missing(tmp_path: Path) -> None:
    rows = []
    for number, hidden in enumerate(["", [""], [" "], [], ["a dog"]]):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        rows.append({"image": f"{number}.png", "image_id": 10 + number, "caption": hidden})
    rows.append({"image": "gone.png", "image_id": 15, "caption": ""})
    rows.append({"image": "gone.png", "image_id": 10, "caption": ""})
    (tmp_path / "hidden.json").write_text(json.dumps(rows))
    results = captioned(tmp_path / "hidden.json")
    assert (results["count"], results["bad_samples"]) == (5, 2)
    ids = [row["image_id"] for row in results["predictions"]]
    assert ids == [10, 11, 12, 13, 14, 15]
    assert results["predictions"][-1]["caption"] == "" != results["predictions"][0]["caption"]


def captioned(path: Path) -> dict[str, Any]:
    """What an evaluation of captions finds."""
    torch.manual_seed(0)
    pairs = EvaluationSet(open_source(str(path), textless=True), 32, 30, 10_000, textless=True)
    settings = EvaluateSection(batch_size=4, max_length=9)
    blip = LoadedBlip(Blip(tiny_config()), open_tokenizer(None))
    return evaluate_captions(blip, pairs, settings) | {"bad_samples": len(pairs.bad)}
