"""Statements about two pictures: reading, swapping, batches, and their evaluation."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from blip_model.nlvr import BlipNlvr
from engine import checkpoint
from engine.config import (
    ConfigError,
    DataSection,
    EvaluateSection,
    ModelSection,
    RunConfig,
    TrainSection,
)
from engine.data.augment import Augmentation, evaluation_view
from engine.data.batch import Batch
from engine.data.counter import Draws
from engine.data.images import decode_image
from engine.data.loader import CROP, build_loader
from engine.data.statements import StatementSlots, open_statements, swapped
from engine.data.tokenizer import open_tokenizer
from engine.evaluation.run import evaluate
from tests.shards import picture, write_statements
from tests.tiny import spread, tiny_config, write_model

ROW = {"images": ["0.png", "1.png"], "sentence": "One is red.", "label": "True"}


def run_config(data: Path, workers: int = 0, **changes: Any) -> RunConfig:
    """A tiny run on statements."""
    return RunConfig(
        model=ModelSection(preset="tiny"),
        data=replace(DataSection(train=str(data), workers=workers), **changes),
        train=TrainSection(global_batch_size=8, negative_group_size=4),
    )


def batches(config: RunConfig, rank: int, ranks: int, start: int, stop: int) -> list[Batch]:
    """A rank's batches of some steps."""
    source, tokenizer = open_statements(config.data.train), open_tokenizer(None)
    steps = {"start_step": start, "stop_step": stop, "slots": StatementSlots}
    return list(build_loader(config, source, tokenizer, rank=rank, world_size=ranks, **steps))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": ["0.png"]}, "has no two paths in 'images'"),
        ({"images": "0.png"}, "has no two paths in 'images'"),
        ({"images": ["0.png", None]}, "has no two paths in 'images'"),
        ({"images": ["0.png", ""]}, "has no two paths in 'images'"),
        ({"sentence": None}, "(0.png, 1.png) has no 'sentence'"),
        ({"sentence": "  "}, "(0.png, 1.png) has no 'sentence'"),
        (
            {"label": None},
            "(0.png, 1.png) has a 'label' that is neither 'True' nor 'False'",
        ),
        ({"label": True}, "neither 'True' nor 'False': True"),
        ({"label": 1}, "neither 'True' nor 'False': 1"),
        ({"label": ["True"]}, "neither 'True' nor 'False'"),
        ({"identifier": "a"}, "has the identifier 'a' of row 1"),
        (None, "is no statement: 'None'"),
    ],
)
def test_a_wrong_row_is_named_with_its_file(
    tmp_path: Path, changes: dict[str, Any] | None, message: str
) -> None:
    wrong = None if changes is None else ROW | changes
    path = tmp_path / "nlvr.json"
    path.write_text(json.dumps([ROW, ROW | {"identifier": "a"}, ROW, wrong, ROW]))
    with pytest.raises(ConfigError) as problem:
        open_statements(str(path))
    assert str(problem.value).startswith(f"{path}: row 3 ")
    assert message in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("missing", ["images", "sentence", "label"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "nlvr.json"
    path.write_text(json.dumps([{key: value for key, value in ROW.items() if key != missing}]))
    with pytest.raises(ConfigError, match=f"nlvr.json: row 0 .*{missing}"):
        open_statements(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not readable as json"),
        ("[" * 100_000, "not readable as json"),
        ("{}", "expected a list of statements, found dict"),
        ("[]", "expected a list of statements, found an empty one"),
    ],
    ids=["empty", "deep", "object", "none"],
)
def test_a_file_that_is_no_list_is_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "nlvr.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as problem:
        open_statements(str(tmp_path / "nlvr.json"))
    assert "\n" not in str(problem.value)


def test_files_are_joined_and_their_fingerprint_tells_changes(tmp_path: Path) -> None:
    path = write_statements(tmp_path, 6)
    (tmp_path / "more.json").write_text(json.dumps([ROW]))
    both = open_statements([str(path), str(tmp_path / "more.json")])
    assert (len(both), both.lengths) == (7, [6, 1])
    raw = both.read(6)
    assert (raw.key, raw.captions, raw.label) == ("0", ["One is red."], 1)
    assert (raw.image, raw.second) == (picture(0), picture(1))
    (tmp_path / "folder").mkdir()
    for names in (["0.png", "folder"], ["folder", "0.png"]):
        (tmp_path / "half.json").write_text(json.dumps([ROW | {"images": names}]))
        assert open_statements(str(tmp_path / "half.json")).read(0).problem == "no_file"
    before = both.fingerprint
    (tmp_path / "more.json").write_text(json.dumps([ROW | {"label": "False"}]))
    assert open_statements([str(path), str(tmp_path / "more.json")]).fingerprint != before


def test_left_and_right_change_places() -> None:
    said = "the left one is right of the lefthand one and left"
    assert swapped(said) == "the right one is left of the lefthand one and right"
    assert swapped(swapped(said)) == said


def test_half_of_the_slots_are_swapped_with_their_sentence(tmp_path: Path) -> None:
    config = run_config(write_statements(tmp_path, 16), horizontal_flip=False, fast_views=False)
    source = open_statements(config.data.train)
    slots, count = StatementSlots(config, source), 0
    augmentation = Augmentation.of(config.data, 32)
    for slot in range(64):
        sample, raw = slots[slot], source.read(slots.order.of_slot(slot))
        draws = Draws(config.seed, CROP, slot)
        pictures = [decode_image(one, 10_000) for one in (raw.image, raw.second)]
        left, right = (augmentation(one, draws) for one in pictures)
        sentence = raw.captions[0].lower().rstrip(".")
        if " right " in sample.caption:
            count += 1
            left, right, sentence = right, left, sentence.replace("left", "right")
        assert sample.caption == sentence
        assert torch.equal(sample.image, torch.stack([left, right]))
        assert (sample.label, sample.key) == (raw.label, raw.key)
    assert 20 <= count <= 44
    assert [slots[slot].caption for slot in range(9)] == [slots[slot].caption for slot in range(9)]


def test_workers_and_ranks_do_not_change_the_global_batches(tmp_path: Path) -> None:
    data = write_statements(tmp_path, 20)
    (tmp_path / "3.png").write_bytes(b"no picture")
    alone = batches(run_config(data), 0, 1, 0, 5)
    assert alone[0].image.shape == (8, 2, 3, 32, 32)
    reasons = {reason for batch in alone for reason in batch.reason}
    assert reasons == {"", "wrong_format"}
    assert sorted(key for batch in alone for key in batch.key)[:2] == ["test-0", "test-0"]
    later = batches(run_config(data, workers=1), 0, 1, 3, 5)
    halves = [batches(run_config(data), rank, 2, 0, 5) for rank in (0, 1)]
    for step, batch in enumerate(alone):
        names = ("image", "input_ids", "label")
        whole = [halves[0][step], halves[1][step]]
        assert torch.equal(torch.cat([part.image for part in whole]), batch.image)
        assert torch.equal(torch.cat([part.label for part in whole]), batch.label)
        if step >= 3:
            again = later[step - 3]
            assert all(torch.equal(getattr(again, n), getattr(batch, n)) for n in names)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Statements and weights that are sure of their answers."""
    folder = tmp_path_factory.mktemp("statements")
    write_statements(folder, 14)
    torch.manual_seed(0)
    model = BlipNlvr(tiny_config())
    spread(model)
    write_model(folder / "weights", model)
    with torch.no_grad():
        model.cls_head[2].weight.fill_(float("nan"))
    write_model(folder / "diverged", model)
    return folder


def evaluation(folder: Path, output: Path, **evaluate: Any) -> RunConfig:
    """An evaluation in fp32."""
    return RunConfig(
        output_dir=str(output),
        precision="fp32",
        device="cpu",
        model=ModelSection(preset="tiny", checkpoint=str(folder / "weights")),
        data=DataSection(eval=str(folder / "statements.json"), max_bad_fraction=0.1),
        evaluate=EvaluateSection(**({"batch_size": 4} | evaluate)),
    )


def results_of(config: RunConfig) -> tuple[dict[str, Any], list[dict[str, str]]]:
    evaluate(config, "nlvr")
    folder = Path(config.output_dir)
    results = json.loads((folder / "results.json").read_text())
    assert results.pop("seconds") > 0
    return results, json.loads((folder / "predictions.json").read_text())


def test_results_are_those_of_single_statements(judged: Path, tmp_path: Path) -> None:
    results, predictions = results_of(evaluation(judged, tmp_path / "out"))
    model = BlipNlvr(tiny_config()).eval()
    weights = checkpoint.read(judged / "weights").tensors["model"]
    model.load_state_dict(weights)
    right, tokenizer = 0, open_tokenizer(None)
    rows = json.loads((judged / "statements.json").read_text())
    for row, said in zip(rows, predictions, strict=True):
        views = [
            evaluation_view(decode_image((judged / name).read_bytes(), 10_000), 32)
            for name in row["images"]
        ]
        ids, mask = tokenizer.encode([row["sentence"].lower().rstrip(".")], 64)
        with torch.no_grad():
            true = model.judge(torch.stack(views)[None], ids, mask).argmax().item()
        assert said == {"identifier": row["identifier"], "answer": str(bool(true))}
        right += said["answer"] == row["label"]
    assert results["metrics"] == {"accuracy": right / 14}
    assert results["chance"] == {"accuracy": 0.5}
    assert (results["task"], results["count"], results["bad_samples"]) == ("nlvr", 14, 0)
    example = results["examples"][3]
    assert (example["key"], example["label"]) == ("test-3", "True")
    assert (example["true"] > 0.5) == (predictions[3]["answer"] == "True")
    for size in (1, 5, 64):
        other, again = results_of(evaluation(judged, tmp_path / "out", batch_size=size))
        assert (again, other["metrics"]) == (predictions, results["metrics"])


def test_a_long_statement_is_read_to_its_end(judged: Path, tmp_path: Path) -> None:
    said = "one is red and " * 6
    rows = [ROW | {"sentence": said + last, "identifier": last} for last in ("green", "blue")]
    (judged / "long.json").write_text(json.dumps(rows))
    config = evaluation(judged, tmp_path / "out")
    data = replace(config.data, eval=str(judged / "long.json"))
    results, _ = results_of(replace(config, data=data))
    green, blue = (example["true"] for example in results["examples"])
    assert green != blue


def test_bad_pictures_are_counted_and_weights_that_are_not_finite_refused(
    judged: Path, tmp_path: Path
) -> None:
    rows = json.loads((judged / "statements.json").read_text())
    rows[4]["images"][1] = "missing.png"
    (judged / "torn.json").write_text(json.dumps(rows))
    config = evaluation(judged, tmp_path / "out")
    config = replace(config, data=replace(config.data, eval=str(judged / "torn.json")))
    results, predictions = results_of(config)
    assert (results["count"], results["bad_samples"], len(predictions)) == (13, 1, 13)
    # 7 of 13 are true.
    assert results["chance"]["accuracy"] == pytest.approx(7 / 13)
    model = replace(config.model, checkpoint=str(judged / "diverged"))
    with pytest.raises(ConfigError, match="not finite"):
        evaluate(replace(config, model=model, output_dir=str(tmp_path / "other")), "nlvr")
    assert not list((tmp_path / "other").iterdir())
