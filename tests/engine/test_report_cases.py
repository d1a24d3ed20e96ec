"""What went best and worst: chosen by score, shown with its pictures, trusted in nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.config import ConfigError
from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from engine.evaluation.cases import MOST, best_and_worst
from engine.evaluation.retrieval import cases
from engine.evaluation.tasks import TASKS
from engine.report.cases import ROOM, TITLES
from engine.report.thumbnails import is_picture
from tests.payloads import SHORT
from tests.report_run import Elements, make_run, page_of
from tests.shards import write_shards


def chosen(samples: EvaluationSet, scores: list[float], owners: list[int]) -> tuple[list, list]:
    """Numbers of the best and of the worst, as their cases say them."""
    found = best_and_worst(
        samples, scores, owners, lambda n: ({"output": str(n)}, [("", owners[n], False)])
    )
    assert found["count"] == len(scores)
    return tuple([int(case["output"]) for case in found[kind]] for kind in ("best", "worst"))


def test_the_furthest_come_first_and_no_item_twice(tmp_path: Path) -> None:
    samples = EvaluationSet(open_source(str(write_shards(tmp_path, 30))), 32, 30, 10_000)
    assert sum(len(views) for views in samples.views(8)) == 30
    scores = [float(n * 7 % 30) for n in range(30)]
    order = sorted(range(30), key=scores.__getitem__)
    assert chosen(samples, scores, list(range(30))) == (order[::-1][:MOST], order[:MOST])
    # Of three items there are two best ones and one worst, and of one item no worst one.
    assert chosen(samples, [0.5, 0.1, 0.9], [0, 1, 2]) == ([2, 0], [1])
    assert chosen(samples, [0.5], [0]) == ([0], [])
    # Equal ones stay in their order; another picture comes before a second item of the same.
    assert chosen(samples, [1.0] * 4 + [0.0] * 4, [0] * 8) == ([0, 1, 2, 3], [4, 5, 6, 7])
    best, _ = chosen(samples, [float(-n) for n in range(24)], [0] * 10 + list(range(1, 15)))
    assert best == [0, 10, 11, 12, 13, 14, 15, 16]
    found = best_and_worst(samples, [1.0, 0.0], [0, 1], lambda n: ({}, [("x", n, False)]))
    (shown,) = found["best"][0]["pictures"]
    assert (shown["label"], shown["key"], is_picture(shown["image"])) == ("x", "00000", True)


def test_a_text_comes_behind_the_pictures_that_score_as_its_own(tmp_path: Path) -> None:
    samples = EvaluationSet(open_source(str(write_shards(tmp_path, 3))), 32, 30, 10_000)
    assert sum(len(views) for views in samples.views(3)) == 3
    scores = np.array([[1, 0, 0], [1, 2, 0], [0, 0, 0]], np.float32)
    found = cases(samples, scores)
    told = {case["asked"]: case for case in found["best"] + found["worst"]}
    ranks = [told[text]["score"] for text in samples.captions]
    assert ranks == ["rank 2 of 3", "rank 1 of 3", "rank 3 of 3"]
    labels = [told[text]["pictures"][1]["label"] for text in samples.captions]
    assert labels == ["found first", "next", "found first"]


def write_cases(folder: Path, cases: list[Any], **results: Any) -> None:
    """`cases.json` and `results.json` of an evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = {"task": "vqa", "count": 9, "best": cases, "worst": cases}
    (folder / "cases.json").write_text(json.dumps(tree))
    results = {"task": "vqa", "metrics": {"accuracy": 0.5}, "count": 9} | results
    (folder / "results.json").write_text(json.dumps(results))


def case_of(text: str, image: str | None = None) -> dict[str, Any]:
    """A case that says one text everywhere."""
    pictures = [{"label": text, "key": text, "image": image}] * 2
    case = {"score": text, "asked": text, "output": text, "truth": [text], "pictures": pictures}
    return case | {"rounds": [{"score": text, "asked": text, "output": text, "truth": f"{text}!"}]}


def test_every_task_has_a_title() -> None:
    assert TITLES.keys() == TASKS.keys()


def test_a_run_and_a_folder_of_one_evaluation_show_them(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    assert "Best and worst" not in page_of(root)
    uri = "data:image/webp;base64,AAAA"
    write_cases(root / "pretrain" / "evaluation" / "vqa", [case_of("a fox", uri)] * 20)
    page = page_of(root)
    text = " ".join(Elements(page).text.split())
    assert "Answers to questions" in text and "accuracy 0.50" in text
    assert text.index("Best and worst") < text.index("Most right") < text.index("Most wrong")
    assert page.count(f'<img src="{uri}"') == 2 * 2 * MOST
    write_cases(tmp_path / "alone", [case_of("a fox", uri)])
    alone = Elements(page_of(tmp_path / "alone")).text
    assert "Answers to questions" in alone and "was not evaluated" not in alone
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ConfigError, match="holds nothing to report"):
        page_of(tmp_path / "nothing")


@pytest.mark.parametrize("payload", SHORT)
def test_hostile_cases_stay_texts(tmp_path: Path, payload: str) -> None:
    write_cases(tmp_path / "run", [case_of(payload, payload)], metrics={payload: 1.0})
    tree = json.loads((tmp_path / "run" / "cases.json").read_text())
    (tmp_path / "run" / "cases.json").write_text(json.dumps(tree | {"task": payload}))
    page = page_of(tmp_path / "run")
    elements = Elements(page)
    assert elements.text.count(payload) >= 17
    assert payload not in page or "{{" in payload
    assert not elements.of("script") + elements.of("a") + elements.of("img")
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]


def test_cases_of_any_kind_do_not_break_the_page_and_do_not_fill_it(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    odd = [None, True, 3, [], {}, {"pictures": 3}, {"pictures": [3, {}]}, case_of("x" * 10**5)]
    odd += [{"rounds": 3}, {"rounds": [3, {}, None, {"asked": []}] * 99}]
    write_cases(root / "pretrain" / "evaluation" / "odd", odd, metrics=3)
    (root / "pretrain" / "evaluation" / "torn").mkdir()
    (root / "pretrain" / "evaluation" / "torn" / "cases.json").write_text("{")
    assert "torn/cases.json is not a JSON object" in page_of(root)
    large = "data:image/png;base64," + "A" * 60_000
    for number in range(12):
        write_cases(root / "pretrain" / "evaluation" / f"t{number}", [case_of("y", large)] * 50)
    assert len(page_of(root)) < ROOM + 500_000
