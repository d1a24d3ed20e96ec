"""A folder with everything that can be named wrongly on a command line."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from blip_model import Blip
from blip_model.config import preset
from engine.data.tokenizer import packaged_folder
from tests.forked import succeed
from tests.runs import write_config
from tests.shards import write_shards
from tests.tiny import write_model

YAML = {
    "broken.yaml": "a: [\n",
    "list.yaml": "- a\n",
    "word.yaml": "word\n",
    "nothing.yaml": "",
    "unknown.yaml": "zzzz: 3\n",
    "typo.yaml": "train: {learnin_rate: 3}\n",
    "section.yaml": "model: 3\n",
    "null_section.yaml": "train:\n",
    "null.yaml": "train: {epochs: null}\n",
    "twice.yaml": "seed: 1\ntrain: {epochs: 1}\nseed: 2\n",
    "nested.yaml": "config: list.yaml\n",
    "number.yaml": "3: 4\n",
    "deep.yaml": "a: " + "[" * 1000,
    "numbers.yaml": "data: {train: [1]}\n",
    "bool.yaml": "seed: true\n",
    "size.yaml": "size: [1]\n",
    "deep_typo.yaml": "filter: {train: {learnin_rate: 3}}\n",
    "deep_section.yaml": "pretrain: {model: 3}\n",
}


def make_world(folder: Path) -> Path:
    """Good pairs, weights and a run; and beside them bad files of every kind."""
    data = write_shards(folder / "data", 24)
    write_shards(folder / "more", 16)
    config = write_config(folder, "run", data, train={"max_steps": 1}, model={"queue_size": 8})
    log = folder / "log"
    succeed("launch.pretrain", ["--config", config], log)
    _write_weights(folder)
    settings = {"train": {"max_steps": 1}, "model": {"checkpoint": str(folder / "tiny")}}
    tuning = write_config(folder, "tuned", data, task="caption", **settings)
    succeed("launch.finetune", ["--config", tuning], log)
    _write_vocabularies(folder)
    for name, text in YAML.items():
        (folder / name).write_text(text)
    (folder / "bytes.yaml").write_bytes(b"\xff\xfe\x80")
    (folder / "bytes").write_bytes(b"\xff\xfe\x80")
    (folder / "page.tar").write_text("<html>" * 200)
    (folder / "page.json").write_text("<html>")
    (folder / "captionless.json").write_text('[{"image": "a.png"}]')
    (folder / "pairs.json").write_text('[{"image": "a.png", "caption": "a"}]')
    statement = {"images": ["a.png", "b.png"], "sentence": "both are red", "label": "True"}
    (folder / "whole.json").write_text(json.dumps([statement]))
    (folder / "half.json").write_text(json.dumps([statement, statement | {"label": "true"}]))
    asked = {"image": "a.png", "question": "what is it?", "dataset": "vg"}
    rows = [asked | {"answer": "a cat", "question_id": 1}, asked]
    (folder / "asked.json").write_text(json.dumps(rows))
    said = {"image_id": 5, "caption": "a cat", "dialog": [{"question": 0}]}
    data = {"questions": ["is it?"], "answers": ["no"], "dialogs": [said]}
    (folder / "said.json").write_text(json.dumps({"split": "val2018", "data": data}))
    shown = {"video_id": "clip", "caption": "a dog", "question": "what is it?"}
    (folder / "torn.jsonl").write_text(json.dumps(shown))
    (folder / "clips.jsonl").write_text('{"video": "clip", "caption": "a dog"}\n{"video": "clip"}')
    (folder / "clip.mp4").write_bytes(b"\0\0\1\0ftypisom")
    (folder / "list.json").write_text("[]")
    (folder / "batch.json").write_text('{"train_batch_size": 3}')
    for name in ("empty", "filled", "set", "torn_set", "results", "notes", "torn_loop"):
        (folder / name).mkdir()
    for name in ("file", "there.jsonl"):
        (folder / name).write_text("mine")
    (folder / "filled" / "letter.txt").write_text("mine")
    (folder / "set" / "collection.json").write_text('{"settings": {"size": 7}}')
    (folder / "torn_set" / "collection.json").write_text("{")
    (folder / "torn_loop" / "bootstrap.json").write_text("{")
    results = {"task": "retrieval", "checkpoint": "elsewhere", "metrics": {}}
    (folder / "results" / "results.json").write_text(json.dumps(results))
    (folder / "notes" / "results.json").write_text("mine")
    return folder


def _write_weights(folder: Path) -> None:
    torch.manual_seed(0)
    tiny = preset("tiny")
    parts = {"captioner": {"text_encoder": False}, "scorer": {"text_decoder": False}}
    wide = replace(tiny, vision_width=48)
    networks = {"tiny": Blip(tiny), "wide": Blip(wide)}
    networks |= {name: Blip(tiny, **without) for name, without in parts.items()}
    for name, network in networks.items():
        write_model(folder / name, network)
    torch.save({"model": networks["tiny"].state_dict()}, folder / "tiny.pth")
    torch.save({"model": {"a": torch.zeros(2)}}, folder / "other.pth")
    (folder / "rubbish.pth").write_bytes(b"rubbish")


def _write_vocabularies(folder: Path) -> None:
    packaged = packaged_folder()
    assert packaged is not None
    words = (packaged / "vocab.txt").read_text(encoding="utf-8").splitlines()
    lists = {
        "no_sep.txt": [word for word in words if word != "[SEP]"],
        "short.txt": words[:2000],
        "shifted.txt": ["[unused]", *words[:-1]],
        "no_words.txt": [],
    }
    for name, lines in lists.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
