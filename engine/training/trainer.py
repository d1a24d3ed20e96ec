"""Training: the loop, its two-phase step, and continuing where a run stopped."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from blip_model.vit import accept_sizes
from engine import checkpoint
from engine.checkpoint import Checkpoint, CheckpointError
from engine.config import ConfigError, RunConfig, to_dict
from engine.data.bad_samples import BadSampleLedger
from engine.data.batch import Batch
from engine.data.counter import key_of
from engine.data.decoders import in_effect
from engine.data.loader import build_loader
from engine.data.micro_batches import micro_batch_size
from engine.data.missing_indexes import make_missing_indexes
from engine.data.mixture import open_mixture
from engine.data.source import Source
from engine.data.tokenizer import Tokenizer, mean_tokens, open_tokenizer, refuse_long_texts
from engine.data.workers import ended_with
from engine.runtime import Runtime
from engine.share import Share
from engine.training import run_folder, schedule, state
from engine.training.culprits import culprits
from engine.training.deepspeed_engine import DeepSpeedEngine
from engine.training.drift import as_begun
from engine.training.feed import Feed
from engine.training.methods import as_configured
from engine.training.objectives import Objective
from engine.training.signals import STOPPED, StopRequest
from engine.training.step import Launched, TwoPhaseStep
from engine.training.telemetry import Telemetry
from engine.weights import account

log = logging.getLogger(__name__)
WEIGHTS = 11


def train(
    config: RunConfig,
    objective: Callable[[RunConfig, Tokenizer], Objective],
    runtime: Runtime,
    stop: StopRequest,
) -> int:
    """A run, of which all processes end with what one of them refuses. Collective.

    Arguments as those of `Trainer`.

    Returns:
        The exit code (0 done, 75 stopped by a signal).

    Raises:
        ConfigError: settings, pairs or weights that cannot be used.
        CheckpointError: a checkpoint cannot be used, or written.
    """
    share = Share(runtime.patient())
    with share.one_fate():
        make_missing_indexes(config.data.train, share)
        trainer = Trainer(config, objective, runtime, stop)
    return trainer.run()


class Trainer:
    """A run of an objective.

    Args:
        config: of the run.
        objective: what it trains, made from the run and its tokenizer.
        runtime: of this process.
        stop: set by signals.
    """

    def __init__(
        self,
        config: RunConfig,
        objective: Callable[[RunConfig, Tokenizer], Objective],
        runtime: Runtime,
        stop: StopRequest,
    ) -> None:
        self.config, self.runtime, self.stop = config, runtime, stop
        self.folder = Path(config.output_dir)
        network = config.model.network()
        self.tokenizer = open_tokenizer(config.model.vocabulary, network)
        self.objective = objective(config, self.tokenizer)
        self.source: Source = open_mixture(self.objective.slots.open_source, config.data)
        self.micro = micro_batch_size(config, runtime.world_size)
        self.accumulation = config.train.global_batch_size // (self.micro * runtime.world_size)
        self.last_step = schedule.total_steps(config.train, len(self.source))
        refuse_long_texts(config, network)

    def run(self) -> int:
        """Train to the last step; returns the exit code (0 done, 75 stopped by a signal)."""
        share = Share(self.runtime.patient())
        with run_folder.locked(self.folder, share):
            with share.one_fate():
                resumed = run_folder.find_checkpoint(self._in_effect(), self.source.fingerprint)
                self.step = resumed.step if resumed else 0
                run_folder.agree(share, self.config, self.step, self.source.fingerprint)
            if resumed and self.step >= self.last_step:
                self._say(f"{self.folder}: complete at step {self.step}, nothing to do")
                return 0
            self._prepare(resumed, share)
            # It is mapped: once it is pruned, its disk would not be free before the run ends.
            del resumed
            try:
                with ended_with(self.batches()) as batches:
                    code = self._loop(batches)
            except OSError as error:
                if error.errno not in checkpoint.FULL:
                    raise
                left = checkpoint.intact(self.folder / "checkpoints")
                full = f"{self.folder}: {checkpoint.FULL[error.errno]}{left}"
                raise CheckpointError(full) from None
            finally:
                self.telemetry.close()
            self.engine.close()
            return code

    def _prepare(self, resumed: Checkpoint | None, share: Share) -> None:
        config, runtime = self.config, self.runtime
        # Weights may be missing on one machine alone; from the engine on all ranks meet.
        with share.one_fate():
            torch.manual_seed(key_of(config.seed, WEIGHTS) >> 1)
            built = self.objective.build(fresh=resumed is None)
            model, momentum = built.model, built.momentum
            if resumed is not None:
                state.load_weights(resumed, model, momentum)
            elif built.loaded.loaded:
                self._say(account(config.model, built.loaded))
            model.recompute(config.train.activation_checkpointing)
            sizes = {stage.image_size for stage in config.data.curriculum} - {None}
            for module in (model, momentum):
                accept_sizes(module, sizes)
            as_configured(config, runtime.device, (model, "forward"), (momentum, "features"))
        self.momentum = None if momentum is None else momentum.to(runtime.device)
        self.engine = DeepSpeedEngine(
            model.to(runtime.device), config, self.micro, self.accumulation, self._rate(self.step)
        )
        self.ledger = BadSampleLedger(config.data.max_bad_fraction)
        self._skipped_in_a_row, self._saved = 0, None
        if resumed is not None:
            state.load_moments(resumed, self.engine)
            self.ledger.reasons.update(resumed.state["bad_samples"])
            self.ledger.seen = resumed.state["samples_seen"]
            self.ledger.in_a_row = resumed.state.get("bad_in_a_row", 0)
            self._skipped_in_a_row = resumed.state.get("skipped_in_a_row", 0)
            self._say(f"continuing {resumed.path} at step {self.step}")
            config, changed = as_begun(resumed.state, config, self.micro)
            for line in changed:
                self._say(line)
        told = (config.data.max_tokens, self.objective.prompt)
        tokens = mean_tokens(self.source, self.tokenizer, *told)
        flops, losses = self.objective.flops(tokens), self.objective.losses
        self.telemetry = Telemetry(
            self.folder, config, runtime, losses, self.step, self.last_step, flops
        )
        if resumed is not None:
            facts = resumed.state
            self.telemetry.resume(facts["unfinished_interval"], facts["skipped_steps"])
        self.stepper = TwoPhaseStep(
            config, runtime, self.objective, self.engine, self.momentum, len(self.source)
        )
        if runtime.is_main:
            config.save(self.folder / "config.yaml")
        self._say(
            f"{len(self.source)} pairs, {self.last_step} steps of {config.train.global_batch_size} "
            f"on {runtime.world_size} process(es), {config.precision} on {runtime.device.type}"
        )

    def batches(self) -> Iterator[Batch]:
        """This rank's micro-batches from the current step on."""
        return iter(
            build_loader(
                self.config,
                self.source,
                self.tokenizer,
                rank=self.runtime.rank,
                world_size=self.runtime.world_size,
                start_step=self.step,
                stop_step=self.last_step,
                prompt=self.objective.prompt,
                slots=self.objective.slots,
            )
        )

    def _loop(self, batches: Iterator[Batch]) -> int:
        config, runtime, stop = self.config, self.runtime, self.stop
        feed = Feed(batches, self.accumulation, config, runtime, stop, self.ledger)
        going = None
        while self.step < self.last_step:
            number = self.step + (going is not None)
            if going and (number == self.last_step or self.stop or self._says(number)):
                self._settle(going)
                going = None
                continue
            taken = self._next(feed, going)
            if taken is None:
                if going:
                    self._settle(going)
                self._save()
                step = f"step {self.step}"
                self._say(f"stopped by a signal at {step}, saved; start again to continue")
                return STOPPED
            launched = self.stepper.launch(number, taken)
            if going and self._settle(going):
                launched = self.stepper.launch(number, taken)
            going = launched
            if not self.stepper.ahead:
                self._settle(going)
                going = None
        if self._saved != self.step:
            self._save()
        if self.ledger.total:
            self._say(f"{self.ledger.total} bad samples were replaced: {self.ledger.kinds}")
        return 0

    def _says(self, step: int) -> bool:
        """Whether a line is logged or a checkpoint saved after so many steps."""
        numbers = (self.config.train.log_every, self.config.checkpoint.every)
        return any(every and step % every == 0 for every in numbers)

    def _settle(self, launched: Launched) -> bool:
        """Count a step, log and save after it; whether the one launched after it is void."""
        train, every = self.config.train, self.config.checkpoint.every
        accepted, losses, void = self.stepper.settle(launched)
        if accepted:
            self.telemetry.add(losses)
        else:
            self.telemetry.skip()
            names = culprits(launched.batches, losses, self.runtime)
            self._say(f"step {self.step + 1} was not finite and changed nothing; {names}")
        self.step += 1
        self._skipped_in_a_row = 0 if accepted else self._skipped_in_a_row + 1
        if self._skipped_in_a_row >= train.max_skipped_in_a_row:
            raise ConfigError(
                f"{self._skipped_in_a_row} steps in a row were not finite, the last is "
                f"{self.step}: start anew in another output_dir with a lower train.learning_rate "
                "or with train.clip_norm"
            )
        if self.step % train.log_every == 0 or self.step == self.last_step:
            rate = self._rate(self.step - 1)
            self.telemetry.log(self.step, rate, self.engine.temperature(), self.ledger.total)
        if every and self.step % every == 0:
            self._save()
            self._saved = self.step
        return void

    def _next(self, feed: Feed, going: Launched | None) -> list[Batch] | None:
        """This rank's micro-batches of the next step; None where any rank was asked to stop."""
        began = time.perf_counter()
        taken, problem = feed.fetch()
        if going is None or not going.busy:
            self.telemetry.waited(time.perf_counter() - began)
        return feed.agreed(self.stepper.bring(taken), problem)

    def _rate(self, step: int) -> float:
        return schedule.learning_rate(self.config.train, step, len(self.source))

    def _in_effect(self) -> RunConfig:
        return in_effect(self.config, self.runtime.device.type, single=self.objective.slots.single)

    def _save(self) -> None:
        self.stepper.check_copies()
        tensors = state.gather(self.engine, self.momentum, self.runtime.is_main)
        facts = {
            "updates": self.engine.updates(),
            "samples_seen": self.step * self.config.train.global_batch_size,
            "micro_batch_size": self.micro,
            "skipped_steps": self.telemetry.skipped_steps,
            "unfinished_interval": self.telemetry.unfinished(),
            "skipped_in_a_row": self._skipped_in_a_row,
            "bad_samples": dict(self.ledger.reasons),
            "bad_in_a_row": self.ledger.in_a_row,
            "data_fingerprint": self.source.fingerprint,
            "config": to_dict(self._in_effect()),
        }
        problem = None
        if self.runtime.is_main:
            keep = self.config.checkpoint
            try:
                self.telemetry.sync()
                checkpoint.write(self.folder / "checkpoints", self.step, tensors, facts)
                checkpoint.prune(self.folder / "checkpoints", keep.keep_last, keep.keep_every)
            except (CheckpointError, OSError) as error:
                problem = error
        if self.runtime.any(problem is not None):
            raise problem or CheckpointError("the main process could not write the checkpoint")

    def _say(self, line: str) -> None:
        if self.runtime.is_main:
            print(line, file=sys.stderr, flush=True)
