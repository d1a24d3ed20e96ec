"""A run whose host goes ahead of its device ends as one whose host waits for every step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from engine.data.shard_writer import ShardWriter
from tests.forked import run
from tests.runs import metrics, write_config
from tests.shards import caption, picture

pytestmark = pytest.mark.slow

PROGRAM, STEPS = "tests.train_many", 6
# What a clock says.
TIMES = {"images_per_second", "data_wait_fraction", "eta_seconds"}
# Steps that are refused, after how many a line is logged and a checkpoint saved, and a stop: a
# run goes ahead unless a line or a checkpoint comes next.
ORDERS = {
    "the first and the last": ([0, 5], 6, 0, None),
    "three in a row": ([1, 2, 3], 6, 0, None),
    "before a line and a checkpoint": ([1, 3], 4, 2, None),
    "after a line and a checkpoint": ([2, 3], 3, 2, None),
    "while a stop comes": ([2], 6, 0, 2),
    "after a stop": ([3], 6, 4, 2),
}
# Pictures are of other sizes from step to step.
STAGES = [{"until_step": 2, "image_size": 16}, {"until_step": 4, "image_size": 24}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """32 pairs, three of whose pictures cannot be decoded."""
    folder = tmp_path_factory.mktemp("ahead") / "data"
    with ShardWriter(folder, "pairs", 32) as writer:
        for number in range(32):
            content = b"broken" if number in (3, 11, 20) else picture(number)
            facts = {"uid": f"{number}", "url": ""}
            writer.add(f"{number}", content, "png", caption(number), facts)
    return folder


def left(folder: Path, step: int) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a checkpoint, and its facts without the run's own names."""
    saved = folder / "checkpoints" / f"step_{step:08d}"
    tensors = load_file(saved / "model.safetensors") | load_file(saved / "optimizer.safetensors")
    facts = json.loads((saved / "state.json").read_text())
    return tensors, {name: fact for name, fact in facts.items() if name != "config"}


@pytest.mark.parametrize("order", ORDERS)
def test_whatever_happens_when(tmp_path: Path, data: Path, order: str) -> None:
    refused, log_every, every, stop = ORDERS[order]
    kept, lines = [], []
    for name, words in (("inside", []), ("ahead", ["--record"])):
        train = {"max_steps": STEPS, "log_every": log_every}
        saving = {"every": every, "keep_last": 9}
        config = write_config(tmp_path, name, data, train=train, checkpoint=saving)
        tree = yaml.safe_load(config.read_text())
        tree["data"]["curriculum"] = STAGES
        # With copies of weights, which are looked at before each checkpoint.
        tree["precision"] = "bf16"
        config.write_text(yaml.safe_dump(tree))
        words = ["--follow", *words, *(word for step in refused for word in ("--poison", step))]
        stopped = stop is not None and name == "ahead"
        if stopped:
            at = ["--terminate", stop]
            ((code, said),) = run(PROGRAM, [*words, *at, config], tmp_path / "log")
            assert code == 75, said
        ((code, more),) = run(PROGRAM, [*words, config], tmp_path / "log")
        assert code == 0, more
        said = said + more if stopped else more
        for step in refused:
            assert said.count(f"step {step + 1} was not finite and changed nothing") == 1
        saved = [STEPS, *(range(every, STEPS, every) if every else ())]
        kept.append({step: left(tmp_path / name, step) for step in saved})
        taken = [{k: v for k, v in m.items() if k not in TIMES} for m in metrics(tmp_path / name)]
        lines.append(taken)
    assert lines[0] == lines[1]
    assert lines[0][-1]["skipped_steps"] == len(refused)
    assert lines[0][-1]["bad_samples"] > 3
    for step, (want, facts) in kept[0].items():
        got, same = kept[1][step]
        assert same == facts, step
        assert facts["updates"] == step - sum(number < step for number in refused)
        assert want.keys() == got.keys()
        assert [name for name, tensor in want.items() if not torch.equal(tensor, got[name])] == []


def test_too_many_refused_in_a_row_end_a_run_that_went_ahead(tmp_path: Path, data: Path) -> None:
    train = {"max_steps": STEPS, "log_every": STEPS, "max_skipped_in_a_row": 2}
    config = write_config(tmp_path, "run", data, train=train, checkpoint={"every": 2})
    words = ["--follow", "--record", "--poison", 0, "--poison", 2, "--poison", 3, config]
    ((code, said),) = run(PROGRAM, words, tmp_path / "log")
    assert code == 2
    assert "2 steps in a row were not finite, the last is 4" in said
    saved = [folder.name for folder in (tmp_path / "run" / "checkpoints").glob("step_*")]
    assert saved == ["step_00000002"]


def test_data_that_ends_a_run_leaves_its_checkpoints(tmp_path: Path) -> None:
    """While the step before is under way, in which nothing is wrong."""
    with ShardWriter(tmp_path / "data", "pairs", 300) as writer:
        for number in range(300):
            content = b"broken" if number % 3 == 0 else picture(number)
            facts = {"uid": f"{number}", "url": ""}
            writer.add(f"{number}", content, "png", caption(number), facts)
    train = {"max_steps": 30, "log_every": 50}
    config = write_config(tmp_path, "run", tmp_path / "data", train=train, checkpoint={"every": 9})
    ((code, said),) = run(PROGRAM, ["--follow", "--record", config], tmp_path / "log")
    assert code == 2
    assert "of 200 samples are bad" in said
    facts = left(tmp_path / "run", 18)[1]
    assert facts["samples_seen"] == 18 * 8
