"""A collection: from lists to finished shards, in order, going on where a launch before ended."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from engine.collect.web.address import Connector, Resolve, system_resolve
from engine.collect.web.census import Census, take_census
from engine.collect.web.config import ScreenSection, WebConfig, identity
from engine.collect.web.folder import CollectionFolder
from engine.collect.web.journal import Journal, Outcome
from engine.collect.web.lists import Lists, Row, pieces
from engine.collect.web.look import Look, look_of
from engine.collect.web.near import NearIndex
from engine.collect.web.refusal import Refused
from engine.collect.web.schedule import Schedule
from engine.collect.web.shard_work import Copies, ShardWork
from engine.collect.web.summary import summarise
from engine.collect.web.texts import TextScreen
from engine.collect.web.visit import Job, Visitor
from engine.collect.web.workers import Workers
from engine.config import ConfigError
from engine.data.images import BadSample, decode_image
from engine.data.open_source import open_source
from engine.progress import Progress

log = logging.getLogger(__name__)
DONE, STOPPED = 0, 75
# Shards in work at once: hosts that are slow hold up the oldest, not the others.
OPEN = 3
# Seconds between two looks at whether to stop.
POLL = 0.2


class StopRequested(Protocol):
    """Whether somebody asked to stop."""

    def __bool__(self) -> bool: ...


def collect_web(config: WebConfig, stop: StopRequested, resolve: Resolve = system_resolve) -> int:
    """Fetch what the lists name, and write it as indexed shards with a table each.

    Args:
        config: of the collection.
        stop: true once it is to stop; what is fetched is then saved.
        resolve: gives the addresses of a host.

    Returns:
        0 when all shards are finished, 75 when it was stopped before.

    Raises:
        ConfigError: lists, settings or a folder that cannot be used.
    """
    lists, folder = Lists(config.lists), CollectionFolder(config.folder)
    folder.refuse_foreign()
    try:
        counting = _stoppable(Progress("counted", "rows"), stop)
        census = take_census(lists, config.screen.max_repeats is not None, counting)
        if not census.rows:
            raise ConfigError(f"{', '.join(config.lists)}: no rows")
        evaluation = _evaluation_looks(config.screen, stop)
    except _Stopped:
        return STOPPED
    with folder.locked():
        facts = {"rows": census.rows, "fingerprint": census.fingerprint}
        folder.begin({"lists": facts, **identity(config)})
        try:
            done = _Collector(config, folder, lists, census, evaluation).run(stop, resolve)
        except OSError as error:
            problem = f"cannot be written: {error.strerror or error}; what is there stays"
            raise ConfigError(f"{folder.root}: {problem}, start again to go on") from None
        if done == DONE:
            summarise(folder, census.rows, -(-census.rows // config.samples_per_shard))
    return done


class _Stopped(Exception):
    """Somebody asked to stop before anything was begun."""


def _stoppable(progress: Progress, stop: StopRequested) -> Callable[[int], None]:
    def tick(count: int) -> None:
        progress.add(count)
        if stop:
            raise _Stopped

    return tick


def _evaluation_looks(section: ScreenSection, stop: StopRequested) -> NearIndex | None:
    """Pictures that must not be collected; those that cannot be decoded are said."""
    if section.eval is None:
        return None
    source = open_source(section.eval)
    bits = ScreenSection.near if section.near is None else section.near
    near = NearIndex(bits or 0, section.near_colour)
    tick = _stoppable(Progress("looked at", "evaluation pictures", len(source)), stop)
    for number in range(len(source)):
        try:
            sample = source.read(number)
            near.add(look_of(decode_image(sample.image, section.max_pixels)), number)
        except BadSample as bad:
            log.warning("evaluation picture %s: %s, cannot be compared", sample.key, bad.reason)
        tick(1)
    return near


class _Collector:
    def __init__(
        self,
        config: WebConfig,
        folder: CollectionFolder,
        lists: Lists,
        census: Census,
        evaluation: NearIndex | None,
    ) -> None:
        self.config, self.folder, self.lists, self.census = config, folder, lists, census
        self.copies = Copies(config.screen, evaluation)
        self.texts = TextScreen(config.screen, census.counts, folder.purged())
        self.schedule = Schedule(config.fetch.host_connections, config.fetch.host_delay)
        # By number; dictionaries keep the order they were opened in.
        self.open: dict[int, ShardWork] = {}
        self._changed = threading.Condition()
        self._finished = 0

    def run(self, stop: StopRequested, resolve: Resolve) -> int:
        connector = Connector(resolve, self.config.fetch.allow_loopback)
        visitor = Visitor(self.config.fetch, connector)
        workers = Workers(self.config, self.schedule, visitor, self._report)
        shards = self._shards()
        progress = Progress("collected", "rows", self._rows_left())
        try:
            while True:
                while len(self.open) < OPEN and (work := next(shards, None)) is not None:
                    self.open[work.number] = work
                    self._queue(work)
                if not self.open:
                    return DONE
                oldest = next(iter(self.open.values()))
                if not self._wait(oldest, workers, stop, progress):
                    return STOPPED
                # While it is written, the others go on.
                oldest.finish(self.folder, self.copies)
                self._finished += len(oldest.rows)
                del self.open[oldest.number]
        finally:
            workers.close(self.config.fetch.timeout + 1.0)
            for work in self.open.values():
                work.journal.close()

    def _rows_left(self) -> int:
        size = self.config.samples_per_shard
        numbers = range(-(-self.census.rows // size))
        return sum(
            min(size, self.census.rows - number * size)
            for number in numbers
            if not self.folder.finished(number)
        )

    def _shards(self) -> Iterator[ShardWork]:
        """Shards that are not finished; the finished ones are gone through for what they hold."""
        rows = pieces(self.lists.rows(), self.config.samples_per_shard)
        for number, piece in enumerate(rows):
            if self.folder.finished(number):
                self._remember(number, piece)
                continue
            yield ShardWork(number, piece, Journal(self.folder.journal(number)))

    def _remember(self, number: int, rows: list[Row]) -> None:
        for row in rows:
            self.texts.pass_over(row)
        table = self.folder.read_table(number, ["row", "uid", "kept", "look"])
        kept = table.filter(table["kept"]).to_pylist()
        purged = sum(one["uid"] in self.texts.purged for one in kept)
        self.folder.check_shard(number, len(kept) - purged, len(kept))
        for one in kept:
            self.copies.remember(Look.from_bytes(one["look"]), one["row"])

    def _queue(self, work: ShardWork) -> None:
        for row in work.rows:
            try:
                url = self.texts.look_at(row)
            except Refused as refused:
                work.refuse(row.number, refused.reason)
                continue
            if work.open(row.number):
                self.schedule.add(Job(row.number, url))

    def _report(self, outcome: Outcome, content: bytes) -> None:
        work = self.open[outcome.row // self.config.samples_per_shard]
        work.journal.add(outcome, content)
        if work.complete:
            with self._changed:
                self._changed.notify()

    def _wait(
        self, work: ShardWork, workers: Workers, stop: StopRequested, progress: Progress
    ) -> bool:
        """Until a shard is complete; False when it is to stop before."""
        while not work.complete:
            if workers.failure is not None:
                raise workers.failure
            if stop:
                return False
            with self._changed:
                self._changed.wait(POLL)
            known = self._finished + sum(work.known for work in self.open.values())
            progress.add(known - progress.done)
        return not stop
