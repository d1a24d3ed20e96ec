"""A good run that has not begun, and the faults that are planted into it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from blip_model import Blip
from blip_model.config import preset
from engine import checkpoint
from engine.check.host import Host
from engine.check.run import check_training
from engine.config import RunConfig, to_dict
from engine.data.shard_writer import ShardWriter
from engine.findings import Finding
from launch import check
from launch.check import CheckConfig, for_run
from launch.cli import parse
from tests.commands import call
from tests.runs import write_config
from tests.shards import caption, picture
from tests.tiny import write_model

# A machine on which nothing is wrong with these runs, whatever the one of the test is.
HOST = Host(
    cores=8,
    memory=16 << 30,
    shared_memory=8 << 30,
    open_files=4096,
    bf16=True,
    gpus=0,
    gpu_memory=0,
    deepspeed=True,
    port=29500,
    port_free=True,
)


def write_pairs(
    folder: Path, count: int, *, size: int = 40, prefix: str = "train", shards: int = 2
) -> Path:
    """`count` pairs with pictures of their own in indexed shards."""
    with ShardWriter(folder, "pairs", -(-count // shards)) as writer:
        for number in range(count):
            facts = {"uid": f"{prefix}-{number}"}
            image = picture(number % 32, size + number // 32)
            writer.add(f"{number:05d}", image, "png", caption(number), facts)
    return folder


def make_good(folder: Path) -> Path:
    """Pairs, held-out pairs, weights, and a configuration of a run on them."""
    data = write_pairs(folder / "data", 32)
    write_pairs(folder / "held_out", 16, size=72, prefix="held")
    torch.manual_seed(0)
    network = Blip(preset("tiny", dropout=0.0))
    write_model(folder / "tiny", network)
    wide = Blip(replace(preset("tiny"), vision_width=48))
    checkpoint.write_as(
        folder / "wide", 0, {"model": wide.state_dict()}, {"network": vars(wide.config)}
    )
    write_config(
        folder,
        "run",
        data,
        model={"queue_size": 8},
        train={"max_steps": 20, "schedule": "cosine"},
        evaluate={"shortlist": 8},
    )
    return folder


def config_of(folder: Path, *words: str) -> CheckConfig:
    """The run with further words of the command line."""
    here = {"data.train": "data", "data.eval": "held_out", "output_dir": "run"}
    places = [f"--{key}={folder / name}" for key, name in here.items()]
    given = ["--config", str(folder / "run.yaml"), *places, "--data.workers=2", *words]
    return parse(CheckConfig, given, description="", examples="")


def look(folder: Path, *words: str, host: Host = HOST) -> list[Finding]:
    """What a check of the run says."""
    given = config_of(folder, *words)
    return check_training(for_run(given), given.task, given.ranks or 1, host)


def run(folder: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """The command's exit code and what it prints for machines."""
    here = {"data.train": "data", "data.eval": "held_out", "output_dir": "run"}
    places = [f"--{key}={folder / name}" for key, name in here.items()]
    done = call(check.main, "--config", folder / "run.yaml", *places, "--json", *words)
    assert done.err == ""
    return done.code, json.loads(done.out)


def flip(path: Path, position: int) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def save_run(
    folder: Path, name: str, step: int, marked: str = "other", **changes: Any
) -> RunConfig:
    """A run folder with a checkpoint at a step, made on pairs of a mark, as training leaves it."""
    config = for_run(config_of(folder, "--output_dir", str(folder / name)))
    tree = to_dict(config) | changes
    facts = {"config": tree, "data_fingerprint": marked}
    network = Blip(preset("tiny"))
    checkpoint.write(folder / name / "checkpoints", step, {"model": network.state_dict()}, facts)
    return config


def rewrite(
    folder: Path,
    texts: Callable[[int], str],
    image: Callable[[int], bytes],
    uid: Callable[[int], str] = lambda n: f"train-{n}",
) -> None:
    """Other captions and pictures in the shards of `data`."""
    for path in (folder / "data").iterdir():
        path.unlink()
    with ShardWriter(folder / "data", "pairs", 16) as writer:
        for number in range(32):
            writer.add(f"{number:05d}", image(number), "png", texts(number), {"uid": uid(number)})


def write_list(folder: Path, column: str = "caption", **changes: Any) -> str:
    """A CSV of 32 pairs, whose pictures lie in a folder `pictures`."""
    (folder / "pictures").mkdir()
    rows = [f"image,{column}"]
    for number in range(32):
        (folder / "pictures" / f"{number}.png").write_bytes(picture(number))
        rows.append(f"{number}.png,{caption(number)}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    return str(folder / "pairs.csv")


@dataclass(frozen=True)
class Fault:
    """What is planted, and what must be found.

    Attributes:
        name: of the finding.
        severity: of it.
        advice: a part of its line that says what to do.
        words: further ones of the command line, FOLDER for the run's place.
        plant: changes the place.
        host: limits of the machine.
    """

    name: str
    severity: str
    advice: str
    words: str = ""
    plant: Callable[[Path], object] = lambda folder: None
    host: Host = HOST


def write_json(folder: Path, tree: Any) -> None:
    """A file with DeepSpeed's settings."""
    (folder / "deepspeed.json").write_text(json.dumps(tree))
