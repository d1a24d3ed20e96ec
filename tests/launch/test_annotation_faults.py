"""Annotations that are wrong or not complete: one line that names file and row, exit code 2."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch import evaluate
from tests.annotation_faults import BESIDE, CONTENTS, DROPPED, TABLES, WRONG
from tests.commands import Ended, call
from tests.evaluation_ranks import TASKS, write_world
from tests.shards import caption


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good annotations of every task, pictures and weights."""
    folder = write_world(tmp_path_factory.mktemp("annotations"))
    rows = [{"image": f"{n}.png", "caption": caption(n), "image_id": n} for n in range(5)]
    (folder / "rows.json").write_text(json.dumps(rows))
    tables = {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(5)],
        "annotations": [{"image_id": n, "caption": caption(n)} for n in range(5)],
    }
    (folder / "tables.json").write_text(json.dumps(tables))
    return folder


def good(world: Path, task: str) -> Path:
    """A file with which nothing is wrong."""
    return world / ("rows.json" if task == "classification" else TASKS[task][0])


def changed(path: Path, place: tuple, value: Any) -> bytes:
    """A file's content with something else in one place."""
    lines = path.suffix == ".jsonl"
    text = path.read_text()
    tree = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
    part = tree
    for step in place[:-1]:
        part = part[step]
    if value is DROPPED:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    rows = [json.dumps(row) for row in tree] if lines else [json.dumps(tree)]
    return "\n".join(rows).encode()


def evaluated(world: Path, path: Path, task: str, *words: object) -> Ended:
    """An evaluation on a file."""
    out, weights = path.parent / "out", world / TASKS[task][1]
    given = ["--task", task, "--device", "cpu", "--precision", "fp32", "--output_dir", out]
    given += ["--model.checkpoint", weights, "--model.preset", "tiny", "--data.frames", 2]
    given += ["--data.eval", path, "--data.image_root", world, "--evaluate.batch_size", 4]
    given += ["--evaluate.max_length", 8, "--evaluate.min_length", 1]
    return call(evaluate.main, *given, *words)


def refused(ended: Ended, path: Path, said: str) -> None:
    """It ended in one line, and nothing was written."""
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: " + said.replace("FILE", str(path))), ended.err
    assert ended.err.count("\n") == 1
    assert not list((path.parent / "out").iterdir())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("kind", "content", "said"), CONTENTS, ids=[kind for kind, *_ in CONTENTS])
def test_a_file_that_holds_something_else(
    world: Path, tmp_path: Path, task: str, kind: str, content: bytes | None, said: str
) -> None:
    path = (tmp_path / kind).with_suffix(good(world, task).suffix)
    if content is not None:
        path.write_bytes(content)
    # A row is a line there, whatever is in it.
    said = said if path.suffix == ".json" else "FILE: "
    refused(evaluated(world, path, task), path, said)


@pytest.mark.parametrize(
    ("task", "place", "value", "said"),
    WRONG,
    ids=[f"{task}-{'.'.join(map(str, place))}-{n}" for n, (task, place, *_) in enumerate(WRONG)],
)
def test_a_row_that_is_wrong(
    world: Path, tmp_path: Path, task: str, place: tuple, value: Any, said: str
) -> None:
    path = (tmp_path / "wrong").with_suffix(good(world, task).suffix)
    path.write_bytes(changed(good(world, task), place, value))
    refused(evaluated(world, path, task), path, said)


@pytest.mark.parametrize(("place", "value", "said"), TABLES)
def test_a_row_of_cocos_own_files(
    world: Path, tmp_path: Path, place: tuple, value: Any, said: str
) -> None:
    path = tmp_path / "tables.json"
    path.write_bytes(changed(world / "tables.json", place, value))
    refused(evaluated(world, path, "caption"), path, said)


@pytest.mark.parametrize(("setting", "task", "content", "said"), BESIDE)
def test_lists_beside_the_annotations(
    world: Path, tmp_path: Path, setting: str, task: str, content: bytes | None, said: str
) -> None:
    beside, out = tmp_path / "beside.json", tmp_path / "out"
    if content is not None:
        beside.write_bytes(content)
    words = [f"--evaluate.{setting}", beside, "--output_dir", out]
    refused(evaluated(world, good(world, task), task, *words), beside, said)


def test_dialogues_of_an_unknown_split_name_their_pictures(world: Path, tmp_path: Path) -> None:
    tree = json.loads(good(world, "visdial").read_text())
    tree["split"] = "minival"
    for dialog in tree["data"]["dialogs"]:
        del dialog["image"]
    path = tmp_path / "dialogues.json"
    path.write_text(json.dumps(tree))
    said = "FILE: row 0 (image_id 0) has no 'image' path, and the split is none of train, val, test"
    refused(evaluated(world, path, "visdial"), path, said)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("reason", ["missing", "undecodable"])
def test_a_picture_that_cannot_be_shown(
    world: Path, tmp_path: Path, task: str, reason: str
) -> None:
    """Of pictures it is counted and named, of videos, which are few, it is the end."""
    given = good(world, task)
    path, name = tmp_path / given.name, f"99{reason}"
    text = given.read_text().replace('"2.png"', f'"{name}.png"').replace('"video2"', f'"{name}"')
    path.write_text(text.replace('"video_id": 2', f'"video_id": "{name}"'))
    if reason == "undecodable":
        (world / f"{name}.png").write_bytes(b"\x89PNG and then something else")
        (world / f"{name}.mp4").write_bytes((world / "video2.mp4").read_bytes()[:24] + bytes(99))
    ended = evaluated(world, path, task)
    if task.startswith("video"):
        reason = {"missing": "missing"}.get(reason, "")
        key = f"{name} (question 2)" if task == "video_qa" else name
        refused(ended, path, f"FILE: row 2: {key}: not a usable video: {reason}")
        return
    refused(ended, path, "bad samples: ")
    assert "more than data.max_bad_fraction 0.05; the first is " in ended.err
    assert f"({reason}): mend the data or raise it" in ended.err
    ended = evaluated(world, path, task, "--data.max_bad_fraction", 0.3)
    assert ended.code == 0
    (line,) = [one for one in ended.err.splitlines() if "left out as bad, the first" in one]
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    named, count = results["bad_named"], results["bad_samples"]
    assert len(named) == count > 0 and named[0].endswith(f"({reason})")
    assert line.endswith(f"{count} left out as bad, the first {named[0]}")
