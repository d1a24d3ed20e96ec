"""Runs configurations one after the other in one process group, as a rank of a test.

One that names a task is a fine-tuning.

    python -m tests.train_many [OPTION VALUE ...] CONFIG.yaml ...

On the last rank, at the step that the option names, `--poison` puts a NaN into a picture (more of
them: in several steps), `--infinite` adds a constant infinity (its gradient is finite) to a loss,
and `--stall` waits for data forever, and says so; `--terminate` and `--kill` send that rank itself
the signal. `--programs BACKEND` has what is compiled go through another backend than the default.
`--ledger FILE` appends the keys of every micro-batch that a rank takes. `--follow` has the momentum
weights follow inside the optimizer's step on a CPU too; `--record` has passes go through what
records them, and `--tight` gives wrong texts places for two tokens more than all texts have, which
many draws do not fit. `--cast` keeps no copies of weights in bf16: every pass casts them.
`--room BYTES` lets no file grow larger, which is what a full disk does to a write, on any machine
and without being root.
"""

import argparse
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

from engine import runtime
from engine.checkpoint import Checkpoint
from engine.config import RunConfig
from engine.data.batch import Batch
from engine.share import Share
from engine.training import methods, step
from engine.training.deepspeed_engine import DeepSpeedEngine
from engine.training.objectives import pretraining
from engine.training.signals import StopRequest
from engine.training.step import TwoPhaseStep
from engine.training.trainer import Trainer
from engine.training.tuning import OBJECTIVES
from launch.cli import parse, run_main
from launch.finetune import FinetuneConfig


class Watched(Trainer):
    """The real run, with its batches looked at or poisoned on the way in."""

    poison: tuple[int, ...] = ()
    infinite: int | None = None
    stall: int | None = None
    signals: dict[int | None, signal.Signals] = {}
    keys_file: Path | None = None
    tight: bool = False

    def _prepare(self, resumed: Checkpoint | None, share: Share) -> None:
        super()._prepare(resumed, share)
        self.stepper._launch = self.noted(self.stepper._launch)
        if self.runtime.rank != self.runtime.world_size - 1:
            return
        if self.poison:
            self.engine.forward = self.poisoned(self.engine.forward)
            if self.momentum is not None:
                self.momentum.features = self.poisoned(self.momentum.features)
        if self.infinite is None:
            return
        forward = self.engine.forward

        def infinite(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
            losses = forward(*args, **kwargs)
            if self.launching == self.infinite:
                name = self.objective.losses[-1]
                losses[name] = losses[name] + float("inf")
            return losses

        self.engine.forward = infinite

    def noted(self, launch: Callable) -> Callable:
        """The same, and which step's passes run: one may run before the last one is settled."""

        def run(step: int, *args: Any, **kwargs: Any) -> Any:
            self.launching = step
            return launch(step, *args, **kwargs)

        return run

    def poisoned(self, passes: Callable) -> Callable:
        """The same for another picture at that step."""

        def run(pictures: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if self.launching in self.poison:
                pictures = pictures.clone()
                pictures[-1, 0, 0, 0] = float("nan")
            return passes(pictures, *args, **kwargs)

        return run

    def batches(self) -> Iterator[Batch]:
        for batch in super().batches():
            last_rank = self.runtime.rank == self.runtime.world_size - 1
            if self.stall == self.step and last_rank:
                print("stalled", flush=True)
                while True:
                    time.sleep(600)
            if self.step in self.signals and last_rank:
                os.kill(os.getpid(), self.signals[self.step])
            if self.tight:
                batch = replace(batch, capacity=int(batch.attention_mask.sum()))
            if self.keys_file:
                with self.keys_file.with_suffix(f".{self.runtime.rank}").open("a") as file:
                    file.write(json.dumps({"step": self.step, "keys": batch.key}) + "\n")
            yield batch


def main() -> int:
    """Run all configurations; the last exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--poison", type=int, action="append", default=[])
    parser.add_argument("--infinite", type=int)
    parser.add_argument("--stall", type=int)
    parser.add_argument("--terminate", type=int)
    parser.add_argument("--kill", type=int)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("--room", type=int)
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--cast", action="store_true")
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--tight", action="store_true")
    parser.add_argument("--programs", default=methods.BACKEND)
    parser.add_argument("configs", nargs="+")
    words = parser.parse_args()
    methods.BACKEND = words.programs
    if words.room:
        resource.setrlimit(resource.RLIMIT_FSIZE, (words.room, words.room))
    if words.follow:
        DeepSpeedEngine.one_pass_on = ("cpu", "cuda")
    if words.tight:
        step.room_for_drawn = lambda capacity, places: min(capacity + 2, places)
    if words.cast:
        TwoPhaseStep._copied = lambda self: []
    if words.record:
        DeepSpeedEngine.records_on = ("cpu", "cuda")
        # Where passes are replayed no hook is called.
        DeepSpeedZeroOptimizer.process_gradients = None
    stop, here, code = StopRequest(), runtime.start("cpu"), 0
    for path in words.configs:
        tuned = "task" in yaml.safe_load(Path(path).read_text())
        kind = FinetuneConfig if tuned else RunConfig
        config = parse(kind, ["--config", path], description="", examples="")
        objective = OBJECTIVES[config.task] if tuned else pretraining
        run = Watched(config, objective, here, stop)
        run.poison, run.keys_file, run.infinite = (*words.poison,), words.ledger, words.infinite
        run.stall, run.tight = words.stall, words.tight
        run.signals = {words.terminate: signal.SIGTERM, words.kill: signal.SIGKILL}
        code = run.run()
    runtime.stop()
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    run_main(main)
