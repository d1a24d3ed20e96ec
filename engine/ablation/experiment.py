"""The experiment: cells of arms and seeds, shared out among any number of processes.

Processes share the folder and never wait for each other's messages: who works on a seed holds its
lock, because the cells of a seed share their base, captioner and filter.
"""

import fcntl
import os
import sys
import time
import uuid
from pathlib import Path
from typing import IO, Any

import yaml

from engine.ablation.arms import in_order
from engine.ablation.cell import make_cell
from engine.ablation.config import FREE, AblationConfig
from engine.ablation.figure import draw
from engine.ablation.preparation import seed_folder
from engine.ablation.results import collect_cells, summarise, table
from engine.config import ConfigError, to_dict
from engine.data.open_source import open_source
from engine.differences import differences, flat
from engine.evaluation.run import write_results
from engine.stages import Stages

LONGEST_WAIT = 1.0


class Experiment:
    """One process of an experiment.

    Args:
        config: of the experiment.
        stages: that run.
        command: that started it, for the record.
    """

    def __init__(self, config: AblationConfig, stages: Stages, command: str) -> None:
        self.config, self.stages, self.command = config, stages, command
        self.folder = Path(config.output_dir)
        self._held: IO[str] | None = None

    def run(self) -> None:
        """Make all cells that are not made, then say what came out.

        Raises:
            Stopped: a signal asked to stop, and everything is saved.
            ConfigError: a folder of another experiment, or what a stage refuses.
        """
        self.stages.on_main(self._settle)
        cells = in_order(self.config.arms, self.config.seeds)
        while left := self.stages.on_main(lambda: self._left(cells)):
            cell = self.stages.on_main(lambda: self._claim(left))
            if cell is None:
                self.stages.on_main(lambda: time.sleep(LONGEST_WAIT))
                continue
            try:
                self._make(*cell)
            finally:
                self._release()
        self.stages.on_main(self._conclude)

    def _make(self, seed: int, name: str) -> None:
        self._say(f"arm {name}, seed {seed}")
        folder = self._place(seed, name)
        facts = make_cell(self.config, self.stages, seed, name, folder)
        self._say(f"arm {name}, seed {seed}: R@1 {facts['retrieval_r1']:.3f}")
        self.stages.on_main(self._write)

    def _place(self, seed: int, name: str) -> Path:
        return seed_folder(self.config, seed) / name

    def _left(self, cells: list[tuple[int, str]]) -> list[tuple[int, str]]:
        return [cell for cell in cells if not (self._place(*cell) / "cell.json").exists()]

    def _claim(self, left: list[tuple[int, str]]) -> tuple[int, str] | None:
        """The first cell whose seed nobody works on; its lock is held from then on."""
        for seed, name in left:
            folder = seed_folder(self.config, seed)
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("w")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                continue
            if (self._place(seed, name) / "cell.json").exists():
                lock.close()
                continue
            self._held = lock
            return seed, name
        return None

    def _release(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _settle(self) -> None:
        """Make the folder this experiment's, once its pairs are there.

        Raises:
            ConfigError: no pairs, or a folder with another experiment or that cannot be written.
        """
        data = self.config.data
        specs = {"train": data.train, "clean": data.clean, "eval": data.eval}
        pairs = {name: open_source(spec).fingerprint for name, spec in specs.items() if spec}
        ours = to_dict(self.config)
        settings = differences(_kept(self._first("config.yaml", ours)), _kept(ours))
        if settings:
            raise ConfigError(
                f"{self.folder} holds an experiment with other settings ({', '.join(settings)}): "
                "give the same ones to continue, or choose another output_dir"
            )
        # A folder from before pairs were noted takes those of today.
        replaced = differences(self._first("pairs.yaml", pairs), pairs)
        if replaced:
            raise ConfigError(
                f"{self.folder} holds an experiment on other pairs in the same places "
                f"(data.{', data.'.join(replaced)}): put them back, or choose another output_dir"
            )

    def _first(self, name: str, ours: dict[str, Any]) -> dict[str, Any]:
        """What a file of the folder says; the first process writes it."""
        path = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}")
                text = yaml.safe_dump(ours, sort_keys=False)
                temporary.write_text(text, encoding="utf-8")
                os.replace(temporary, path)
            theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            problem = getattr(error, "strerror", None) or f"its {name} is not readable"
            raise ConfigError(f"output_dir {self.folder}: {problem}") from None
        return theirs if isinstance(theirs, dict) else {}

    def _write(self) -> dict[str, Any]:
        """All results from all cells that are there, of any process; one writes at a time."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            results = summarise(collect_cells(self.folder), self.config, self.command)
            write_results(self.folder / "results.json", results)
            (self.folder / "results.md").write_text(table(results), encoding="utf-8")
            draw(results, self.folder / "results.png")
        return results

    def _conclude(self) -> None:
        print(table(self._write()), flush=True)
        self._say(f"{self.folder / 'results.json'}: complete")

    def _say(self, line: str) -> None:
        if self.stages.here.is_main:
            print(line, file=sys.stderr, flush=True)


def _kept(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(settings).items() if key not in FREE}
