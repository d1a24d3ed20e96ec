"""Captions, keys and files of a run are hostile input: the page stays a page, and small."""

import json
import math
import random
from pathlib import Path

import pytest

from engine.report.page import build_page, read_parts
from tests.payloads import SHORT
from tests.report_run import PARTS, Elements, make_run, page_of, write_results

LIMIT = 5 * 2**20


@pytest.mark.parametrize("payload", SHORT)
def test_hostile_texts_stay_texts(tmp_path: Path, payload: str) -> None:
    root = make_run(tmp_path / "run", pictures=3)
    stage = root / "pretrain"
    example = {"key": payload, "generated": payload, "references": [payload], "image": payload}
    write_results(stage, "caption", {payload: 1.0}, [example])
    example = {"query": payload, "truth": payload, "rank": 1, "top": [payload, "x"]}
    write_results(stage, "retrieval", {"text_to_image_r5": 0.5}, [example])
    (stage / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss_itc": payload}))
    state = stage / "checkpoints" / "step_00000999" / "state.json"
    state.parent.mkdir()
    state.write_text(json.dumps({"bad_samples": {payload: 2}}))
    (root / "data" / "ATTRIBUTION.txt").write_text(payload)
    (stage / "config.yaml").write_text(f"data: {{train: {json.dumps(payload)}}}\n")
    page = page_of(root)
    elements = Elements(page)
    assert elements.text.count(payload) >= 7
    assert payload not in page or "{{" in payload
    assert not elements.of("script") + elements.of("a") + elements.of("img")
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")]


def test_thumbnails_that_are_not_pictures_are_not_shown(tmp_path: Path) -> None:
    parts = read_parts(make_run(tmp_path / "run", pictures=2))
    for hostile in (
        "data:text/html;base64,PHNjcmlwdD4=",
        "data:image/svg+xml;base64,PHN2Zz4=",
        'data:image/png;base64,AAAA" onload="x',
        "data:image/png;base64," + "A" * 10**6,
        "http" + "://example.org/x.png",
    ):
        page = build_page(parts, {"000000": hostile})
        assert not Elements(page).of("img")


@pytest.mark.parametrize("content", ["", "[1]", '{"metrics": [], "examples": {"a": 1}}', "{"])
def test_damaged_results_are_left_out(tmp_path: Path, content: str) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    for name in (PARTS["retrieval"], PARTS["caption"]):
        (root / "pretrain" / name).write_text(content)
    text = Elements(page_of(root)).text
    assert "Pretrained for 120 steps over 7,680 picture-caption pairs." in text


def test_values_of_any_kind_do_not_break_the_page(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    stage, odd = root / "pretrain", [None, True, [], {}, "x", -1, 10**400, math.nan, math.inf]
    names = json.loads((stage / "metrics.jsonl").read_text().splitlines()[0])
    lines = [json.dumps(dict.fromkeys(names, value)) for value in odd]
    lines += [json.dumps(dict.fromkeys(names, v) | {"step": i}) for i, v in enumerate(odd)]
    (stage / "metrics.jsonl").write_text("\n".join(lines))
    fields = ("key", "generated", "references", "image", "query", "truth", "rank", "top", "scores")
    examples = [dict.fromkeys(fields, value) for value in odd] + odd
    examples += [{field: [value] for field in fields} for value in odd]
    for task in ("retrieval", "caption"):
        write_results(stage, task, {"text_to_image_r5": 0.5}, examples)
    newest = stage / "checkpoints" / "step_00000120" / "state.json"
    newest.write_text(json.dumps({"bad_samples": {str(i): v for i, v in enumerate(odd)}}))
    (stage / "config.yaml").write_text("model: 3\ndata: {train: {a: 1}, eval: [1]}\n")
    assert "5" in page_of(root)


def test_a_rate_of_next_to_nothing_does_not_break_the_page(tmp_path: Path) -> None:
    """Its time is more than a number holds."""
    root = make_run(tmp_path / "run", pictures=2)
    row = {"step": 1, "samples_seen": 1e300, "images_per_second": 1e-300}
    (root / "pretrain" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert "training time" not in page_of(root)


def test_it_stays_below_five_megabytes_at_the_worst(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=100, side=320, caption="word " * 2000)
    stage = root / "pretrain"
    row = {"loss_itc": 1.0, "loss_itm": 0.5, "loss_lm": 2.0}
    with (stage / "metrics.jsonl").open("w") as file:
        for step in range(20_000):
            file.write(json.dumps(row | {"step": step, "lr": random.random()}) + "\n")
    (stage / "config.yaml").open("a").write(f"# {'x' * 10**6}\n")
    page = page_of(root)
    assert len(Elements(page).of("img")) >= 36 + 5 * 12
    assert len(page.encode()) < LIMIT
