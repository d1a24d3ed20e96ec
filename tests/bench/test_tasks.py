"""All downstream tasks by one command, on a few real drawings: what is tuned has learnt."""

import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.task_results import deviation
from bench.tasks import TASKS
from blip_model import Blip
from engine.collect import clips, openmoji, questions, statements, tasks
from engine.collect.pair_set import CollectConfig, collect
from launch import evaluate
from tests import forked
from tests.commands import call, contents
from tests.tiny import spread, tiny_config, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2500), pytest.mark.xdist_group("tasks")]
HANDS = re.compile("hand|finger|thumb|fist|palm|biceps|index|foot|leg|ear|polish|selfie", re.I)
PEOPLE = re.compile("person|man|woman|people|holding")
TONES = {"light skin tone", "dark skin tone"}
# In the deviations that `bench.task_results` defines; the seed, one thread and fp32 are given.
MARGIN = 3.0
STEPS = 150
# For training and held out.
COUNTS = {"nlvr": (1000, 300), "visdial": (1000, 120), "video": (1000, 300)}
# Seconds: two minutes of one core, on a machine that others share.
TO_END = 2400.0


def write_set(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Hands of five skin tones, and tasks that a tiny network soon learns."""
    drawings = [d for d in openmoji.drawings() if HANDS.search(d.name) and "skin tone" in d.name]
    drawings = [d for d in drawings if not PEOPLE.search(d.name)]
    patch.setattr(openmoji, "drawings", lambda: list(drawings))
    patch.setattr(questions, "LEAST", {"train": 8, "heldout": 3})
    # Both pictures light, or both dark.
    shown_by: Callable[[str], frozenset[str]] = statements.shown_by
    patch.setattr(statements, "shown_by", lambda name: shown_by(name) & TONES)
    patch.setattr(statements, "FORMS", statements.FORMS[:1])
    patch.setattr(statements, "LEAST", {"train": 20, "heldout": 4})
    # Clips of a hand and of a finger that points.
    patch.setattr(clips, "PEOPLE", ("hand", "index"))
    for name, counts in COUNTS.items():
        small = dict(zip(("count", "held_out"), counts, strict=True))
        make, look = tasks.TASKS[name]
        patch.setitem(tasks.TASKS, name, (partial(make, **small), look))
    settings = {"size": 32, "held_out": 80, "tasks": list(tasks.TASKS)}
    return collect(CollectConfig(output_dir=str(folder / "set"), **settings), lambda line: None)


def words(folder: Path) -> list[str]:
    """The command line: tiny runs from weights that know nothing."""
    given = {
        "data": folder / "set",
        "start": folder / "start",
        "output_dir": folder / "out",
        "results": folder / "results",
        "precision": "fp32",
        "device": "cpu",
        "model.preset": "tiny",
        "model.alpha": 0.0,
        "model.momentum": 0.5,
        "train.max_steps": STEPS,
        "train.global_batch_size": 32,
        "train.negative_group_size": 32,
        "train.learning_rate": 3e-3,
        "train.warmup_steps": 10,
        "train.log_every": STEPS,
        "data.workers": 0,
        "checkpoint.every": 0,
        "tensorboard": "false",
        "evaluate.num_beams": 1,
        "evaluate.shortlist": 1,
    }
    return [str(word) for key, value in given.items() for word in (f"--{key}", value)]


def run(folder: Path, log: str) -> str:
    """The command in a process of its own: what it said."""
    (started,) = forked.start("bench.tasks", words(folder), folder / log)
    code, said = started.end(TO_END)
    assert code == 0, said
    return said


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the command leaves."""
    folder = tmp_path_factory.mktemp("tasks")
    with pytest.MonkeyPatch.context() as patch:
        write_set(folder, patch)
    torch.manual_seed(0)
    # Weights that are not all alike for any input: a tiny network drawn as usual hardly learns.
    start = Blip(tiny_config(initial_std=0.09))
    spread(start)
    write_model(folder / "start", start)
    run(folder, "said")
    return folder


def results(folder: Path) -> dict[str, Any]:
    (path,) = (folder / "results").glob("tasks_*.json")
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", TASKS)
def test_tuning_beats_what_it_starts_from(done: Path, name: str) -> None:
    found = results(done)["tasks"][name]
    assert found["gain_in_std"] > MARGIN, found
    assert found["tuned"] > found["chance"], found


@pytest.mark.parametrize(
    ("name", "file", "seen", "asked"),
    [
        # Colours are what so few steps teach; shapes take more.
        ("video_qa", "video/qa_heldout.json", "video_id", "what skin tone"),
        ("nlvr", "nlvr/heldout.json", "images", ""),
    ],
)
def test_answers_come_from_what_is_seen(
    done: Path, name: str, file: str, seen: str, asked: str
) -> None:
    """About each other's clips, or pairs of pictures, they are right less often."""
    heldout, run = done / "set/tasks" / file, done / "out/seed_0" / name / "tuned"
    rows = json.loads(heldout.read_text())
    rows = [row for row in rows if row.get("question", "").startswith(asked)]
    shown, found = [row[seen] for row in rows], {}
    for side, first in (("own", 0), ("others", len(rows) // 2)):
        moved = zip(rows, shown[first:] + shown[:first], strict=True)
        path, out = heldout.with_name(f"{side}.json"), done / "looked" / name / side
        path.write_text(json.dumps([row | {seen: other} for row, other in moved]))
        words = ["--task", name, "--config", run / "config.yaml", "--model.checkpoint", run]
        words += ["--data.eval", path, "--output_dir", out]
        ended = call(evaluate.main, *words)
        assert ended.code == 0, ended.err
        found[side] = json.loads((out / "results.json").read_text())
    own, others = (one["metrics"]["accuracy"] for one in found.values())
    noise = math.hypot(*(deviation(one, "accuracy") for one in found.values()))
    assert own - others > MARGIN * noise, (own, others, noise)


def test_the_json_says_what_was_done(done: Path) -> None:
    found = results(done)
    assert list(found["tasks"]) == list(TASKS)
    assert found["command"].startswith("bash bench/run.sh tasks --data ")
    for name, task in found["tasks"].items():
        assert (task["metric"], task["std_over"]) == (TASKS[name].metric, "held-out items")
        assert task["gain"] == task["tuned"] - task["untuned"] and task["std"] > 0
        assert task["seeds"] == [0] and task["count"] > 30
        evaluated = done / "out" / "seed_0" / name / "evaluation" / "tuned" / "results.json"
        assert json.loads(evaluated.read_text())["metrics"][task["metric"]] == task["tuned"]
    said = (done / "said").read_text()
    assert all(f"| `{name}` | " in said for name in TASKS)


def test_what_is_complete_is_not_made_again(done: Path) -> None:
    before = contents(done / "out")
    said = run(done, "said_again")
    assert contents(done / "out") == before
    assert f"step {STEPS}/{STEPS}" not in said and said.count(f"complete at step {STEPS}") == 7
