"""The project's programs one after the other in one process, on every rank.

What is complete is found complete and not made again, so a program of stages that was killed
anywhere is simply started again.
"""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from engine.capfilt.config import CapFiltConfig
from engine.capfilt.run import CapFilt
from engine.checkpoint import MANIFEST
from engine.config import ConfigError, RunConfig, to_dict
from engine.data.tokenizer import Tokenizer
from engine.evaluation.run import evaluate
from engine.runtime import Runtime
from engine.training.objectives import Objective
from engine.training.signals import Interrupted, StopRequest
from engine.training.trainer import train
from engine.weight_files import is_checkpoint, locate

# Settings that change no figure of an evaluation.
FREE = ("output_dir", "resume", "device", "tensorboard")
Outcome = TypeVar("Outcome")


class Stopped(Exception):
    """A signal asked to stop; everything is saved (exit code 75)."""


class Stages:
    """Runs stages. Every rank makes it, and calls the same methods in the same order.

    Args:
        here: of this process, from `runtime.start`.
        stop: says when a signal asked to stop.
    """

    def __init__(self, here: Runtime, stop: StopRequest) -> None:
        self.here, self.stop = here, stop
        self._waiting = here.patient()

    def train(
        self, config: RunConfig, objective: Callable[[RunConfig, Tokenizer], Objective]
    ) -> Path:
        """Train to the last step; a complete run only has its newest checkpoint looked at.

        Returns:
            The run folder.

        Raises:
            Stopped: a signal asked to stop, and the run is saved.
            ConfigError: what a run of its own would refuse.
        """
        self.refuse_stop()
        code = train(config, objective, self.here, self.stop)
        _let_go()
        if code:
            raise Stopped
        return Path(config.output_dir)

    def caption_and_filter(self, config: CapFiltConfig) -> Path:
        """Make all cleaned shards, each rank its share, until all ranks are done.

        An error of one rank is raised there at once; the others then find it gone.

        Returns:
            The output folder.

        Raises:
            Stopped: a signal asked to stop, and the shards that were finished are saved.
            ConfigError: what a run of its own would refuse.
        """
        self.refuse_stop()
        code = CapFilt(config, self.here, self.stop).run()
        _let_go()
        if any(self._waiting.gather(code)):
            raise Stopped
        return Path(config.output_dir)

    def evaluate(self, config: RunConfig, task: str) -> dict[str, Any]:
        """Evaluate on the main process; results that are there already are read back.

        Args:
            config: with model.checkpoint, data.eval, and the folder of the results.
            task: retrieval or caption.

        Returns:
            What `results.json` holds, on every rank.

        Raises:
            Stopped: a signal asked to stop before there were results.
            ConfigError: what an evaluation of its own would refuse.
        """
        return self.on_main(lambda: earlier_results(config, task) or self._make(config, task))

    def _make(self, config: RunConfig, task: str) -> dict[str, Any]:
        settings = Path(config.output_dir) / "config.yaml"
        _remove_own(settings, task)
        results = evaluate(replace(config, device=self.here.device.type), task)
        config.save(settings)
        return results

    def on_main(self, work: Callable[[], Outcome]) -> Outcome:
        """Do something on the main process while the others wait; every rank gets the outcome.

        Args:
            work: may be left at any moment by a signal; what it writes is whole or not there.

        Raises:
            Stopped: a signal asked to stop, before or meanwhile.
            ConfigError: the work's, on every rank.
        """
        self.refuse_stop()
        outcome, problem, stopped = None, None, False
        if self.here.is_main:
            try:
                with self.stop.interrupting():
                    outcome = work()
            except Interrupted:
                stopped = True
            except ConfigError as error:
                problem = str(error)
        outcome, problem, stopped = self._waiting.gather((outcome, problem, stopped))[0]
        _let_go()
        if stopped:
            raise Stopped
        if problem is not None:
            raise ConfigError(problem)
        return outcome

    def refuse_stop(self) -> None:
        """Between two stages: has any rank been asked to stop? Collective.

        Raises:
            Stopped: yes.
        """
        if self._waiting.any(bool(self.stop)):
            raise Stopped


def earlier_results(config: RunConfig, task: str) -> dict[str, Any] | None:
    """Results of the same evaluation, made after its weights; None where it must be made.

    Args:
        config: of the evaluation; its `config.yaml` lies beside results that are complete.
        task: retrieval or caption.
    """
    folder = Path(config.output_dir)
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        made = (folder / "results.json").stat().st_mtime_ns
        same = results["task"] == task and _compared(saved) == _compared(to_dict(config))
        return results if same and made > _weights_made(str(config.model.checkpoint)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        return None


def _remove_own(settings: Path, task: str) -> None:
    """Take away stale results that lie beside their settings: of a folder that was moved, say.

    Anything else there was put by somebody else, and the evaluation refuses it.
    """
    results = settings.with_name("results.json")
    try:
        found = json.loads(results.read_text(encoding="utf-8"))
        if settings.is_file() and found["task"] == task:
            results.unlink()
    except (OSError, ValueError, KeyError, TypeError):
        pass
    settings.unlink(missing_ok=True)


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in FREE}


def _weights_made(place: str) -> int:
    """When weights were written, in nanoseconds; the newest good checkpoint's of a run folder."""
    path = locate(place)
    if is_checkpoint(path):
        return (path / MANIFEST).stat().st_mtime_ns
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return max(file.stat().st_mtime_ns for file in files)


def _let_go() -> None:
    """Give back the memory of a stage that has ended: networks hang together in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
