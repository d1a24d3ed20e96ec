"""Tiny loops for tests: pairs, command lines, and what comes out."""

import json
import shutil
from pathlib import Path
from typing import Any

from tests.commands import contents
from tests.forked import run
from tests.shards import write_shards

STEPS = 2
# Two steps teach nothing: by default every round is let through.
LET_THROUGH = {
    "guard.filter_precision": 0,
    "guard.filter_recall": 0,
    "guard.diversity": 0,
    "guard.unseen_words": 1,
    "guard.kept_share": 0,
    "guard.commonest_share": 1,
    "guard.kept_drift": 1,
    "guard.retrieval_drop": 1,
}
SMALL = {
    "model.dropout": 0,
    "model.queue_size": 16,
    "data.workers": 0,
    "train.max_steps": STEPS,
    "train.global_batch_size": 8,
    "train.negative_group_size": 4,
    "train.warmup_steps": 1,
    "train.log_every": 1,
    "checkpoint.every": 1,
    "deepspeed.stage": 1,
    "tensorboard": "false",
}
CLEANING = {
    "capfilt.batch_size": 8,
    "capfilt.data.workers": 2,
    "capfilt.caption.max_length": 8,
}


def make_world(folder: Path) -> Path:
    """Web pairs in two shards, clean ones and held-out ones."""
    write_shards(folder / "web", 16, 8)
    write_shards(folder / "clean", 12)
    write_shards(folder / "eval", 8)
    return folder


def words(world: Path, output: Path, *more: object) -> list[str]:
    """A command line of a loop of one round."""
    settings: dict[str, object] = {
        f"data.{name}": world / name for name in ("web", "clean", "eval")
    }
    for stage in ("pretrain", "captioner", "filter"):
        settings |= {f"{stage}.{key}": value for key, value in SMALL.items()}
    settings |= {"pretrain.model.preset": "tiny", "precision": "fp32", "output_dir": output}
    settings |= CLEANING | LET_THROUGH
    flags = [str(word) for key, value in settings.items() for word in (f"--{key}", value)]
    return [*flags, *map(str, more)]


def loop(world: Path, output: Path, *more: object) -> tuple[int, str]:
    """Run it; the exit code and what it said."""
    ((code, said),) = run(
        "launch.bootstrap", words(world, output, *more), output.with_suffix(".log")
    )
    return code, said


def after_first(whole: Path, output: Path, **changes: object) -> Path:
    """A loop as it was right after its first pretraining, with other settings since its start."""
    shutil.copytree(whole / "round_0", output / "round_0")
    known = state(whole)
    known["rounds"] = known["rounds"][:1]
    known["settings"] |= {key.replace("__", "."): value for key, value in changes.items()}
    (output / "bootstrap.json").write_text(json.dumps(known))
    return output


def state(output: Path) -> dict[str, Any]:
    """What bootstrap.json says."""
    return json.loads((output / "bootstrap.json").read_text())


def outcome(output: Path) -> dict[str, str]:
    """Files that depend on nothing but pairs, settings and seed."""
    kept = ("bootstrap.json", ".safetensors", ".tar", ".parquet", "summary.json")
    found = contents(output).items()
    return {name: digest for name, digest in found if name.endswith(kept)}
