"""What an evaluation leaves in its folder is only ever replaced by one of the same."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_model import Blip
from engine.config import ConfigError, DataSection, EvaluateSection, ModelSection, RunConfig
from engine.evaluation.run import evaluate, refuse_other_results, write_results
from tests.commands import contents
from tests.shards import picture, write_shards
from tests.tiny import spread, tiny_config, write_model

WEIGHTS = "runs/mine"


def left_behind(folder: Path, **results: Any) -> Path:
    """A folder with results in it."""
    folder.mkdir(exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_other_data_are_refused_and_the_same_replaced(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    write_model(tmp_path / "weights", model)
    write_shards(tmp_path / "data", 3)
    write_shards(tmp_path / "other", 2)
    config = RunConfig(
        output_dir=str(tmp_path / "out"),
        precision="fp32",
        device="cpu",
        model=ModelSection(preset="tiny", checkpoint=str(tmp_path / "weights")),
        data=DataSection(eval=str(tmp_path / "data")),
        evaluate=EvaluateSection(max_length=9),
    )
    evaluate(config, "retrieval")
    before = contents(tmp_path / "out")
    other = replace(
        config, data=DataSection(eval=[str(tmp_path / "data"), str(tmp_path / "other")])
    )
    said = f"results on {tmp_path}/data, not on {tmp_path}/data, {tmp_path}/other: choose another o"
    with pytest.raises(ConfigError, match=said):
        evaluate(other, "retrieval")
    assert contents(tmp_path / "out") == before
    for change, said in (
        ({"precision": "bf16"}, "precision 'fp32' -> 'bf16'"),
        ({"evaluate": EvaluateSection(max_length=9, shortlist=2)}, "evaluate.shortlist 128 -> 2"),
    ):
        with pytest.raises(ConfigError, match=rf"results of other settings \({said}\): choose"):
            evaluate(replace(config, **change), "retrieval")
    assert contents(tmp_path / "out") == before
    config = replace(config, evaluate=EvaluateSection(max_length=9, batch_size=2))
    relative = os.path.relpath(tmp_path / "data")
    evaluate(replace(config, data=DataSection(eval=[relative])), "retrieval")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["data"] == [relative]


def test_texts_are_read_as_far_as_the_run_that_trained_read_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Blip(tiny_config(max_positions=64))
    spread(model)
    write_model(tmp_path / "weights", model)
    rows = []
    for number, last in enumerate(("red", "blue")):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        rows.append({"image": f"{number}.png", "caption": f"{'a ' * 40}{last}"})
    (tmp_path / "long.json").write_text(json.dumps(rows))
    data = DataSection(eval=str(tmp_path / "long.json"), max_words=50)
    config = RunConfig(
        precision="fp32",
        device="cpu",
        model=ModelSection(preset="tiny", checkpoint=str(tmp_path / "weights")),
        data=data,
    )
    cut = evaluate(replace(config, output_dir=str(tmp_path / "cut")), "retrieval")
    one, other = (row["scores"] for row in cut["examples"])
    assert one == other and "max_tokens" not in cut["settings"]
    config = replace(config, data=replace(data, max_tokens=50), output_dir=str(tmp_path / "whole"))
    whole = evaluate(config, "retrieval")
    one, other = (row["scores"] for row in whole["examples"])
    assert one != other and whole["settings"]["max_tokens"] == 50


def test_results_from_before_data_was_noted_are_replaced(tmp_path: Path) -> None:
    folder = left_behind(tmp_path, task="retrieval", checkpoint=WEIGHTS)
    refuse_other_results(folder, "retrieval", WEIGHTS, "anything", {})
    with pytest.raises(ConfigError, match="holds the retrieval results of runs/mine: choose"):
        refuse_other_results(folder, "retrieval", "runs/other", "anything", {})


def test_many_shards_are_one_short_line(tmp_path: Path) -> None:
    shards = [f"{number:05d}\n.tar" for number in range(1000)]
    folder = left_behind(tmp_path, task="caption", checkpoint=WEIGHTS, data=shards)
    with pytest.raises(ConfigError, match=r"results on 00000\\n.tar, 00001.*…, not on a: ") as said:
        refuse_other_results(folder, "caption", WEIGHTS, "a", {})
    assert len(str(said.value)) < 600 and "\n" not in str(said.value)


def test_the_order_of_the_data_is_free_and_nonsense_is_none(tmp_path: Path) -> None:
    noted = {"task": "caption", "checkpoint": WEIGHTS, "data": ["a", "b/../c"]}
    folder = left_behind(tmp_path, **noted)
    refuse_other_results(folder, "caption", WEIGHTS, ["c", "a"], {})
    for data in (3, [3], None):
        folder = left_behind(tmp_path, **noted | {"data": data})
        with pytest.raises(ConfigError, match="was not written by an evaluation"):
            refuse_other_results(folder, "caption", WEIGHTS, "a", {})


def test_results_that_cannot_be_put_in_their_place_leave_nothing(tmp_path: Path) -> None:
    (tmp_path / "cases.json").mkdir()
    with pytest.raises(IsADirectoryError):
        write_results(tmp_path / "cases.json", {"count": 1})
    assert [path.name for path in tmp_path.iterdir()] == ["cases.json"]
