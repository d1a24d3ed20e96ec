"""The runs behind the tasks' figures: pairs, a pretraining, tunings, and evaluations of both."""

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.machine import ROOT, commit, hardware_slug, has_bf16, machine, today
from bench.task_results import TUNED, UNTUNED, summarise, table, trained_seconds
from bench.tasks import Task
from engine.collect.pair_set import PARTS, CollectConfig, collect
from engine.collect.tasks import make_tasks
from engine.config import RunConfig
from engine.evaluation.run import write_results
from engine.stages import Stages
from engine.training.objectives import pretraining
from engine.training.tuning import OBJECTIVES, Answering
from launch.cli import parse
from launch.evaluate import EvaluateConfig
from launch.finetune import FinetuneConfig

RECIPES = "launch/recipes"
# The quickstart's pairs: a noisy web, and few that are clean.
WORLD = {"noise": 0.3, "clean_fraction": 0.1}
PRETRAINING_STEPS = 400


class TaskRuns:
    """All runs of one folder.

    Args:
        tasks: by name.
        words: of the command line, see `bench.tasks.arguments`.
        flags: for every training and evaluation.
        stages: that run.
    """

    def __init__(
        self, tasks: dict[str, Task], words: argparse.Namespace, flags: list[str], stages: Stages
    ) -> None:
        self.tasks, self.words, self.flags, self.stages = tasks, words, flags, stages
        self.folder, self.device = Path(words.output_dir), stages.here.device
        self.precision = words.precision or ("bf16" if has_bf16(self.device) else "fp32")
        self._complete: dict[tuple[str, int], Path] = {}

    def run(self, command: str) -> Path:
        """Make what is not there yet, and write and print the figures.

        Args:
            command: that was given.

        Returns:
            The JSON.

        Raises:
            Stopped: a signal asked to stop, and everything is saved.
            ConfigError: what a stage refuses.
        """
        facts, notes = machine(self.device), []
        if facts["load_before"] > facts["cores"] / 2:
            notes = [f"load average {facts['load_before']} when it began: minutes are not its own"]
        self.data = self.stages.on_main(self._collect)
        self.start, seconds = self._pretrained()
        made = {name: [] for name in self.words.tasks}
        for seed in self.words.seeds:
            for name, cells in made.items():
                cells.append(self._cell(name, seed))
        results = {
            "command": command,
            "hardware": "gpu" if self.device.type == "cuda" else "cpu",
            "date": today(),
            "commit": commit(),
            "machine": facts,
            "notes": notes,
            "seeds": self.words.seeds,
            "precision": self.precision,
            "data": str(self.data),
            "start": self.start,
            "pretraining_seconds": seconds,
            "tasks": {name: self._summary(name, cells) for name, cells in made.items()},
        }
        parts = ("tasks", hardware_slug(facts), results["date"], results["commit"])
        path = self.words.results / f"{'_'.join(parts)}.json"
        self.stages.on_main(lambda: write_results(path, results))
        self._say(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
        if self.stages.here.is_main:
            print(f"\n{table(results)}", flush=True)
        return path

    def _collect(self) -> Path:
        asked = [self.tasks[name] for name in self.words.tasks]
        asked += [self.tasks[task.start] for task in asked if task.start]
        derived = list(dict.fromkeys(Path(task.lists).parts[0] for task in asked if task.lists))
        if self.words.data is not None:
            make_tasks(self.words.data, derived, 0, self._say)
            return self.words.data
        return collect(
            CollectConfig(output_dir=str(self.folder / "data"), tasks=derived, **WORLD), self._say
        )

    def _pretrained(self) -> tuple[str, float]:
        """The weights that tunings start from, and the seconds that their steps took."""
        if self.words.start:
            return self.words.start, 0.0
        self._say("pretraining")
        world, folder = self.data / "world", self.folder / "pretrain"
        pairs = [world / "web", world / "clean"] if world.is_dir() else [self.data / "train"]
        words = ["--config", f"{RECIPES}/quickstart.yaml"]
        words += ["--train.max_steps", str(PRETRAINING_STEPS), *self._own(folder, 0)]
        words += ["--data.train", f"[{', '.join(map(str, pairs))}]"]
        run = parse(RunConfig, words, description="", examples="")
        self.stages.train(run, pretraining)
        return str(folder), self.stages.on_main(lambda: trained_seconds(folder))

    def _own(self, folder: Path, seed: int) -> list[str]:
        """Words behind a recipe: the user's, and what is this program's to say."""
        own = ["--output_dir", str(folder), "--seed", str(seed), "--precision", self.precision]
        return [*self.flags, *own, "--device", self.device.type]

    def _place(self, name: str, seed: int) -> Path:
        return self.folder / f"seed_{seed}" / name

    def _tuning(self, name: str, seed: int, steps: int | None = None) -> tuple[RunConfig, str]:
        """A task's fine-tuning, of fewer steps where that is said, and its command."""
        task = self.tasks[name]
        start = str(self._tuned(task.start, seed)) if task.start else self.start
        files = f"tasks/{task.lists}" if task.lists else "{}"
        parts = [self.data / files.format(part) for part in PARTS]
        folder = self._place(name, seed) / (TUNED if steps is None else UNTUNED)
        words = ["--config", f"{RECIPES}/{task.recipe}.yaml", *self._own(folder, seed)]
        words += ["--data.train", str(parts[0]), "--data.eval", str(parts[1])]
        words += ["--model.checkpoint", start]
        if issubclass(OBJECTIVES[name], Answering):
            words += ["--evaluate.answer_list", str(parts[0].with_name("answer_list.json"))]
        words += [] if steps is None else ["--train.max_steps", str(steps)]
        run = parse(FinetuneConfig, words, description="", examples="")
        return run, shlex.join(["python", "launch/finetune.py", *words])

    def _tuned(self, name: str, seed: int) -> Path:
        """The task's run with all its steps."""
        if (name, seed) not in self._complete:
            run, _ = self._tuning(name, seed)
            self._say(f"{name}, seed {seed}: tuning")
            self._complete[name, seed] = self.stages.train(run, OBJECTIVES[name])
        return self._complete[name, seed]

    def _cell(self, name: str, seed: int) -> dict[str, Any]:
        """A task with a seed: results of the untuned weights and of the tuned ones."""
        task = self.tasks[name]
        if task.tuned:
            words = ["--config", f"{RECIPES}/{task.recipe}.yaml", *self._own(Path("."), seed)]
            words += ["--data.eval", str(self.data / "heldout")]
            look = parse(EvaluateConfig, words, description="", examples="")
            weights = {UNTUNED: self.start, TUNED: str(self._tuned(task.tuned, seed))}
            trained, said = 0.0, ""
        else:
            look, said = self._tuning(name, seed)
            before, _ = self._tuning(name, seed, steps=0)
            tuned = self._tuned(name, seed)
            weights = {UNTUNED: str(self.stages.train(before, OBJECTIVES[name])), TUNED: str(tuned)}
            trained = self.stages.on_main(lambda: trained_seconds(tuned))
        cell: dict[str, Any] = {"seed": seed, "command": said, "weights": weights}
        for side, place in weights.items():
            self._say(f"{name}, seed {seed}: evaluating {side}")
            other = task.untuned if side == UNTUNED else {}
            config = replace(
                look,
                output_dir=str(self._place(name, seed) / "evaluation" / side),
                model=replace(look.model, checkpoint=place),
                evaluate=replace(look.evaluate, **other),
            )
            cell[side] = self.stages.evaluate(config, name)
        cell["seconds"] = trained + sum(cell[side]["seconds"] for side in weights)
        return cell

    def _summary(self, name: str, cells: list[dict[str, Any]]) -> dict[str, Any]:
        return summarise(self.tasks[name].metric, cells) | {
            "recipe": f"{RECIPES}/{self.tasks[name].recipe}.yaml",
            "weights": cells[0]["weights"],
            "command": cells[0]["command"],
            "seconds": statistics.fmean(cell["seconds"] for cell in cells),
        }

    def _say(self, line: str) -> None:
        if self.stages.here.is_main:
            print(f"[{time.strftime('%H:%M:%S')}] {line}", file=sys.stderr, flush=True)
