"""What tuning starts from, and models of contrast alone, evaluated like any other."""

import json
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from engine import checkpoint
from launch import evaluate
from tests.commands import Ended, call
from tests.forked import succeed
from tests.runs import metrics, weights, write_config
from tests.shards import write_questions, write_shards, write_statements
from tests.tiny import spread, tiny_config, write_model

pytestmark = pytest.mark.xdist_group("untuned")
WRITERS = {"nlvr": write_statements, "vqa": write_questions}
LISTS = {"nlvr": "statements.json", "vqa": "questions.json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tunings of two steps, with and without a stop before the first, and contrast alone."""
    folder = tmp_path_factory.mktemp("untuned")
    torch.manual_seed(0)
    start = Blip(tiny_config())
    spread(start)
    write_model(folder / "med", start)
    model, configs = {"checkpoint": str(folder / "med")}, []
    for task, write in WRITERS.items():
        data = write(folder, 24)
        for name, steps in (("on", 0), ("on", 2), ("whole", 2)):
            # Its rates are those of whole epochs, of which a run of no steps has none.
            train = {"max_steps": steps, "schedule": "cosine_epoch", "warmup_steps": 0}
            given = {"task": task, "model": model, "train": train}
            path = write_config(folder, f"{task}_{name}", data, **given)
            configs.append(path.rename(folder / f"{task}_{name}_{steps}.yaml"))
    pairs = write_shards(folder / "data", 24)
    given = {"evaluate": {"shortlist": 0}, "train": {"max_steps": 2, "contrast_only": True}}
    configs.append(write_config(folder, "contrast", pairs, **given))
    succeed("tests.train_many", configs, folder / "said")
    return folder


def evaluated(folder: Path, task: str, name: str, *more: object) -> Ended:
    """A run's evaluation by its own settings."""
    words = ["--task", task, "--config", folder / name / "config.yaml", "--device", "cpu"]
    words += ["--model.checkpoint", folder / name, "--output_dir", folder / f"{name}_{task}"]
    return call(evaluate.main, *words, *more)


@pytest.mark.parametrize("task", WRITERS)
def test_no_steps_leave_what_tuning_starts_from(made: Path, task: str) -> None:
    """Going on from there is the tuning itself, bit by bit: heads are drawn once, in one way."""
    med = checkpoint.read(made / "med", only=("model",)).tensors["model"]
    start = weights(made / f"{task}_on", 0)
    body = {name: tensor for name, tensor in med.items() if name.startswith("visual_encoder.")}
    assert body and all(torch.equal(start[name], tensor) for name, tensor in body.items())
    gone_on, whole = weights(made / f"{task}_on", 2), weights(made / f"{task}_whole", 2)
    assert gone_on.keys() == whole.keys() == start.keys()
    assert all(torch.equal(gone_on[name], whole[name]) for name in whole)
    assert not all(torch.equal(start[name], whole[name]) for name in whole)


@pytest.mark.parametrize("task", WRITERS)
def test_untuned_weights_are_evaluated(made: Path, task: str) -> None:
    more = ["--data.eval", made / LISTS[task], "--evaluate.min_length", 1]
    more += ["--model.checkpoint", made / f"{task}_on" / "checkpoints" / "step_00000000"]
    done = evaluated(made, task, f"{task}_on", *more)
    assert done.code == 0, done.err
    results = json.loads((made / f"{task}_on_{task}" / "results.json").read_text())
    assert 0 <= results["metrics"]["accuracy"] <= 1


@pytest.mark.parametrize("task", WRITERS)
def test_a_bare_med_is_refused_with_what_to_do(made: Path, task: str) -> None:
    words = ["--task", task, "--model.checkpoint", made / "med", "--device", "cpu"]
    words += ["--data.eval", made / LISTS[task], "--output_dir", made / f"refused_{task}"]
    done = call(evaluate.main, *words)
    assert done.code == 2 and len(done.err.strip().splitlines()) == 1
    assert "fine-tuning them adds it, and with train.max_steps 0 untrained" in done.err


def test_contrast_alone_is_trained_and_retrieves_without_matching(made: Path) -> None:
    for row in metrics(made / "contrast"):
        assert row["loss_itc"] > 0 and row["loss_itm"] is None and row["loss_lm"] is None
    assert not any("text_decoder" in name for name in weights(made / "contrast", 2))
    done = evaluated(made, "retrieval", "contrast", "--data.eval", made / "data")
    assert done.code == 0, done.err
    found = json.loads((made / "contrast_retrieval" / "results.json").read_text())["metrics"]
    recalls = [name for name in found if not name.endswith("_without_matching")]
    assert len(recalls) == 6
    assert all(found[name] == found[f"{name}_without_matching"] for name in recalls)


def test_contrast_alone_classifies(made: Path) -> None:
    more = ["--data.eval", made / "data", "--evaluate.classes", '["red", "green", "blue"]']
    done = evaluated(made, "classification", "contrast", *more)
    assert done.code == 0, done.err
    found = json.loads((made / "contrast_classification" / "results.json").read_text())
    assert (found["count"], found["classes"]) == (9, ["red", "green", "blue"])
