"""What a step is given: this rank's micro-batches, once all ranks agree that they are used."""

import logging
from collections.abc import Iterator

from engine.config import ConfigError, RunConfig
from engine.data.bad_samples import BadSampleLedger
from engine.data.batch import Batch
from engine.data.workers import from_worker
from engine.runtime import Runtime
from engine.training.signals import Interrupted, StopRequest

log = logging.getLogger(__name__)


class Feed:
    """Micro-batches of the steps from one on.

    Args:
        batches: of this rank, in order.
        accumulation: micro-batches of a step.
        config: of the run.
        runtime: of this process.
        stop: says when a signal asked to stop.
        ledger: counts what is bad, alike on every rank.
    """

    def __init__(
        self,
        batches: Iterator[Batch],
        accumulation: int,
        config: RunConfig,
        runtime: Runtime,
        stop: StopRequest,
        ledger: BadSampleLedger,
    ) -> None:
        self._batches, self._accumulation = batches, accumulation
        self._size, self._runtime, self._stop = config.train.global_batch_size, runtime, stop
        self._ledger, self._named = ledger, set[str]()

    def fetch(self) -> tuple[list[Batch], ConfigError | None]:
        """This rank's micro-batches of the next step, or what is wrong with the data."""
        try:
            with self._stop.interrupting():
                return [next(self._batches) for _ in range(self._accumulation)], None
        except Interrupted:
            return [], None
        except ConfigError as error:
            return [], error

    def agreed(self, taken: list[Batch], problem: ConfigError | None) -> list[Batch] | None:
        """What was fetched; None where any rank was asked to stop. Collective.

        Args:
            taken: this rank's micro-batches.
            problem: with its data.

        Raises:
            ConfigError: data that cannot be read, or too much of it is bad, on every rank.
        """
        bad = sum(bool(reason) for batch in taken for reason in batch.reason)
        told = [int(bool(self._stop)), int(problem is not None), bad]
        stops, problems, bad = self._runtime.sums(told)
        if problems:
            said = self._runtime.gather(problem and from_worker(problem))
            raise ConfigError(next(line for line in said if line))
        if stops:
            return None
        self._count(taken, bad)
        return taken

    def _count(self, taken: list[Batch], bad: int) -> None:
        """Count the samples of all ranks in slot order, alike on every rank."""
        if not bad:
            self._ledger.count([""] * self._size, [""] * self._size)
            return
        ranks = self._runtime.gather([(batch.key, batch.reason) for batch in taken])
        for part in zip(*ranks, strict=True):
            for keys, reasons in part:
                for key, reason in self._ledger.count(keys, reasons):
                    if reason not in self._named:
                        self._named.add(reason)
                        log.warning("bad sample %s: %s; more like it are only counted", key, reason)
