"""Runs configurations one after the other in one process group, as a rank of a test.

    python -m tests.train_many [--poison STEP] [--ledger FILE] CONFIG.yaml ...

`--poison` puts a NaN into a pixel of the last rank's batch of that step; `--ledger` appends the
keys of every micro-batch that this rank takes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from engine import runtime
from engine.config import RunConfig
from engine.data.batch import Batch
from engine.training.signals import StopRequest
from engine.training.trainer import Pretraining
from launch.cli import parse, run_main


class Watched(Pretraining):
    """The real run, with its batches looked at or poisoned on the way in."""

    poison: int | None = None
    keys_file: Path | None = None

    def batches(self) -> Iterator[Batch]:
        for batch in super().batches():
            last_rank = self.runtime.rank == self.runtime.world_size - 1
            if self.poison == self.step and last_rank:
                batch.image[-1, 0, 0, 0] = float("nan")
            if self.keys_file:
                with self.keys_file.with_suffix(f".{self.runtime.rank}").open("a") as file:
                    file.write(json.dumps({"step": self.step, "keys": batch.key}) + "\n")
            yield batch


def main() -> int:
    """Run all configurations; the last exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--poison", type=int)
    parser.add_argument("--ledger", type=Path)
    parser.add_argument("configs", nargs="+")
    words = parser.parse_args()
    stop, here, code = StopRequest(), runtime.start("cpu"), 0
    for path in words.configs:
        config = parse(RunConfig, ["--config", path], description="", examples="")
        run = Watched(config, here, stop)
        run.poison, run.keys_file = words.poison, words.ledger
        code = run.run()
    runtime.stop()
    sys.stdout.flush()
    return code


if __name__ == "__main__":
    run_main(main)
