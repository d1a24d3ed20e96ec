"""A run folder as the quickstart's stages leave it, and the elements of a page made from it."""

import io
import json
import random
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from engine.config import DataSection, RunConfig
from engine.data.shard_writer import ShardWriter
from engine.report.page import ReportConfig, write_report

PARTS = {
    "metrics": "metrics.jsonl",
    "config": "config.yaml",
    "retrieval": "evaluation/retrieval/results.json",
    "caption": "evaluation/caption/results.json",
}


class Elements(HTMLParser):
    """Every element with its attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.text += "" if tag == "mark" else " "

    def handle_data(self, data: str) -> None:
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of a kind."""
        return [attributes for name, attributes in self.found if name == tag]


def png(seed: int, side: int = 32) -> bytes:
    """A noisy picture: the kind that compresses worst."""
    pixels = random.Random(seed).randbytes(3 * side * side)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_run(root: Path, pictures: int = 12, side: int = 32, caption: str = "a red fox") -> Path:
    """A quickstart folder as its stages leave it."""
    with ShardWriter(root / "data" / "heldout", "held", 500) as writer:
        for i in range(pictures):
            writer.add(f"{i:06d}", png(i, side), "png", f"{caption} {i}", {"uid": f"u{i}"})
    (root / "data" / "ATTRIBUTION.txt").write_text("Designs by Somebody, CC BY-SA 4.0\n")
    (root / "data" / "collection.json").write_text('{"pairs": {"train": 3553, "heldout": 400}}')
    stage = root / "pretrain"
    for task in ("retrieval", "caption"):
        (stage / "evaluation" / task).mkdir(parents=True)
    data = DataSection(train="t", eval=str(root / "data" / "heldout"))
    RunConfig(data=data).save(stage / "config.yaml")
    rows = [
        {
            "step": step,
            "samples_seen": step * 64,
            "loss_itc": 6 / step,
            "loss_itm": 0.6,
            "loss_lm": 7.5,
            "lr": 1e-4,
            "temperature": 0.07,
            "images_per_second": 64.0,
            "data_wait_fraction": 0.025,
            "mfu": None,
            "skipped_steps": 2,
            "bad_samples": 5,
            "eta_seconds": 1.0,
        }
        for step in range(10, 130, 10)
    ]
    (stage / PARTS["metrics"]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for step, count in ((60, 1), (120, 4)):
        checkpoint = stage / "checkpoints" / f"step_{step:08d}"
        checkpoint.mkdir(parents=True)
        reasons = {"empty_caption": 1, "truncated": count}
        (checkpoint / "state.json").write_text(json.dumps({"step": step, "bad_samples": reasons}))
    keys = [f"{i:06d}" for i in range(pictures)]
    examples = [
        {"key": key, "image_id": i, "generated": f"{caption} cub", "references": [f"{caption} {i}"]}
        for i, key in enumerate(keys)
    ]
    write_results(stage, "caption", {"cider": 1.25}, examples)
    examples = [
        {"query": f"{caption} {i}", "truth": key, "rank": 1 if i % 2 else 9}
        | {"top": [key if i % 2 else keys[0], *keys[1:5]], "scores": [0.9, 0.8, 0.7, 0.6, 0.5]}
        for i, key in enumerate(keys)
        if i != 0
    ]
    scores = {f"{way}_r{k}": k / 20 for way in WAYS for k in (1, 5, 10)}
    write_results(stage, "retrieval", scores, examples)
    return root


WAYS = ("text_to_image", "image_to_text")


def write_results(stage: Path, task: str, metrics: dict, examples: list) -> None:
    """results.json as an evaluation leaves it."""
    chance = {"cider": 0.04}
    results = {"task": task, "metrics": metrics, "chance": chance, "count": 400, "bad_samples": 7}
    path = stage / "evaluation" / task / "results.json"
    path.write_text(json.dumps(results | {"examples": examples}))


def page_of(root: Path) -> str:
    """The page that a folder gives."""
    return write_report(ReportConfig(run=str(root)), lambda line: None).read_text()
