"""Every task evaluated by this rank of a few, one after the other: `FOLDER OUTPUT [LAME]`."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from blip_model import Blip
from blip_model.nlvr import BlipNlvr
from blip_model.vqa import BlipVqa
from engine import runtime
from engine.config import DataSection, EvaluateSection, ModelSection, RunConfig
from engine.evaluation.run import evaluate
from tests.shards import (
    caption,
    write_dialogues,
    write_questions,
    write_shards,
    write_statements,
)
from tests.tiny import spread, tiny_config, write_model
from tests.videos import write_video_questions, write_videos

# Where pairs of a task are, and what network it is for.
TASKS = {
    "retrieval": ("rows.json", "med"),
    "caption": ("rows.json", "med"),
    "classification": ("shards", "med"),
    "nlvr": ("statements.json", "nlvr"),
    "vqa": ("questions.json", "vqa"),
    "visdial": ("dialogues.json", "med"),
    "video_retrieval": ("videos.jsonl", "med"),
    "video_qa": ("video_questions.json", "vqa"),
}
COUNT = 11


def write_world(folder: Path) -> Path:
    """Small data and weights for every task."""
    write_shards(folder / "shards", COUNT, per_shard=4)
    write_statements(folder, COUNT)
    write_questions(folder, COUNT)
    write_dialogues(folder, 5)
    write_videos(folder, COUNT)
    write_video_questions(folder, COUNT)
    rows = []
    for number in (0, 1, 2, 1, 3, 4, 0, 5, 6, 7, 8):
        texts = [f"{caption(number)}, row {len(rows)}", "once more"][: 1 + number % 2]
        rows.append({"image": f"{number}.png", "caption": texts, "image_id": number})
    # A batch of which nothing can be used, and a picture that cannot in another one.
    rows[6:6] = [{"image": f"{n}.txt", "caption": "gone", "image_id": 90 + n} for n in range(5)]
    (folder / "rows.json").write_text(json.dumps(rows))
    for number, kind in enumerate((Blip, BlipNlvr, BlipVqa)):
        torch.manual_seed(number)
        model = kind(tiny_config())
        spread(model)
        name = ("med", "nlvr", "vqa")[number]
        write_model(folder / name, model)
    return folder


def configurations(folder: Path, output: Path) -> Iterator[tuple[str, RunConfig]]:
    """An evaluation of each task, in batches of three."""
    classes = ["red", "green", "blue", "square"]
    settings = EvaluateSection(batch_size=3, shortlist=4, max_length=8, min_length=2, num_beams=2)
    for task, (data, network) in TASKS.items():
        chosen = {"classes": classes} if task == "classification" else {}
        yield (
            task,
            RunConfig(
                output_dir=str(output / task),
                precision="fp32",
                device="cpu",
                model=ModelSection(preset="tiny", checkpoint=str(folder / network)),
                data=DataSection(eval=str(folder / data), frames=2, max_bad_fraction=0.4),
                evaluate=EvaluateSection(**(vars(settings) | chosen)),
            ),
        )


def main() -> None:
    """Evaluate every task with the other ranks; a lame one is given no weights."""
    folder, output, lame = Path(sys.argv[1]), Path(sys.argv[2]), [int(n) for n in sys.argv[3:]]
    here = runtime.start("cpu")
    for task, config in configurations(folder, output):
        if here.rank in lame:
            nowhere = str(folder / "nothing")
            config = replace(config, model=replace(config.model, checkpoint=nowhere))
        evaluate(config, task, here)
    runtime.stop()
