"""Stages of every kind in one process, as a rank of a test.

    python -m tests.stages_run FOLDER [--stop_after NAME] [--stage ZERO]

Pretrains, tunes a captioner, captions and filters, evaluates, in FOLDER, whose `data` are pairs.
A signal reaches the process right after the named stage. Prints what each stage left alive: JSON.
"""

import argparse
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from engine import runtime
from engine.capfilt.config import CapFiltConfig
from engine.config import RunConfig
from engine.stages import Stages, Stopped
from engine.training.objectives import Pretraining
from engine.training.signals import STOPPED, StopRequest
from engine.training.tuning import Captioning
from launch.cli import parse, run_main
from tests.runs import write_config

STEPS = 2


def alive() -> dict[str, Any]:
    """Weights that something still holds, and threads."""
    weights = [one for one in gc.get_objects() if isinstance(one, torch.nn.Parameter)]
    return {"weights": len(weights), "threads": threading.active_count()}


def settings(folder: Path, name: str, zero: int, **sections: Any) -> RunConfig:
    """A tiny run that is written under `folder / name`."""
    sections |= {"train": {"max_steps": STEPS}, "deepspeed": {"stage": zero}, "tensorboard": True}
    path = write_config(folder, name, folder / "data", **sections)
    return parse(RunConfig, ["--config", str(path)], description="", examples="")


def plan(folder: Path, zero: int, stages: Stages) -> dict[str, Callable[[], Any]]:
    """What is run, by name."""
    first = settings(folder, "pretrain", zero)
    model = {"checkpoint": first.output_dir}
    tuned = settings(folder, "captioner", zero, model=model)
    judged = settings(folder, "pretrain", zero, model=model)
    held = replace(judged.data, eval=str(folder / "data"))
    judged = replace(judged, output_dir=str(folder / "pretrain" / "evaluation"), data=held)
    words = {"captioner": tuned.output_dir, "filter": first.output_dir, "precision": "fp32"}
    words |= {"data.train": folder / "data", "output_dir": folder / "capfilt"}
    words |= {"caption.max_length": 7, "caption.top_k": 40, "batch_size": 8, "device": "cpu"}
    flags = [str(word) for key, value in words.items() for word in (f"--{key}", value)]
    cleaning = parse(CapFiltConfig, flags, description="", examples="")
    return {
        "pretrain": lambda: stages.train(first, Pretraining),
        "captioner": lambda: stages.train(tuned, Captioning),
        "capfilt": lambda: stages.caption_and_filter(cleaning),
        "evaluation": lambda: stages.evaluate(judged, "retrieval"),
    }


def main() -> int:
    """Run all stages; 75 when a signal stopped them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--stop_after", default="")
    parser.add_argument("--stage", type=int, default=0)
    words = parser.parse_args()
    stop, here = StopRequest(), runtime.start("cpu")
    stages, left = Stages(here, stop), {}
    try:
        for rank in range(here.world_size):
            # One by one and before any stage: they write the same files, and look for weights.
            if rank == here.rank:
                planned = plan(words.folder, words.stage, stages)
            here.barrier()
        for name, stage in planned.items():
            outcome = stage()
            left[name] = alive()
            if name == "evaluation":
                left["recall"] = outcome["metrics"]["text_to_image_r1"]
            if name == words.stop_after and here.rank == here.world_size - 1:
                os.kill(os.getpid(), signal.SIGTERM)
    except Stopped:
        return STOPPED
    finally:
        print(json.dumps(left), flush=True)
        runtime.stop()
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    run_main(main)
