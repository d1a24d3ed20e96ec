"""Captioning and filtering of many shards by any number of processes.

Processes never wait for each other's messages: they share the output folder, take shards by
leases, and the ledger says what is finished. Any of them may die at any time.
"""

import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from engine.capfilt import identity
from engine.capfilt.candidates import Candidates, CaptionAndScore
from engine.capfilt.config import CapFiltConfig
from engine.capfilt.finishing import Finishing
from engine.capfilt.folder import IDENTITY, SETTINGS, SUMMARY, OutputFolder, put, write_file
from engine.capfilt.from_table import EarlierRun
from engine.capfilt.inputs import name_shards
from engine.capfilt.lease import Lease, LeaseLostError, Leases
from engine.capfilt.ledger import QUARANTINED, Ledger, summary_of, totals
from engine.capfilt.progress import Progress, nothing_kept, shares
from engine.capfilt.publish import Publisher
from engine.capfilt.shard_job import ScoredShard, ShardJob
from engine.capfilt.times import Times
from engine.checkpoint import FULL
from engine.config import ConfigError, ModelSection
from engine.data.picture_files import first_of
from engine.inference import LoadedBlip, load
from engine.report.capfilt_report import REPORT, write_capfilt_report
from engine.runtime import Runtime
from engine.training.signals import STOPPED, Interrupted, StopRequest

log = logging.getLogger(__name__)
LONGEST_WAIT = 1.0


class CapFilt:
    """One process of a run.

    Args:
        config: of the run.
        here: where this process stands.
        stop: says when a signal asked to stop.

    Raises:
        ConfigError: no shards, weights that cannot do it, or a folder of another run.
    """

    def __init__(self, config: CapFiltConfig, here: Runtime, stop: StopRequest) -> None:
        self.config, self.here, self.stop = config, here, stop
        self.shards = name_shards(config.data.train, config.remote)
        self.folder = OutputFolder(Path(config.output_dir))
        self.publisher: Publisher | None = None
        if config.publish_to:
            self.publisher = Publisher(self.folder.root, config.publish_to, config.remote)
        candidates, self.identity = self._candidates()
        identity.refuse_other(config, self.identity)
        identity.settle(self.folder, config, self.identity)
        self.ledger = Ledger(self.folder, identity.hash_identity(self.identity))
        self.job = ShardJob(self.folder, self.ledger, candidates, config.rule, self.publisher)
        self.leases = Leases(self.folder.leases, config.lease_seconds)
        self.times = Times(self.folder.root)
        self.finishing = Finishing()

    def run(self) -> int:
        """Make all shards that are not made; 0 when all are, 75 when a signal stopped it.

        Raises:
            ConfigError: the disk is full, no shard could be read, or a finished one has changed.
        """
        try:
            return self._run()
        except OSError as error:
            # A disk that fails, a folder that somebody removed.
            name = error.filename2 or error.filename or ""
            problem = FULL.get(error.errno) or f"{name}: {error.strerror}"
            saved = "what is finished is saved: " if self.folder.root.is_dir() else ""
            words = f"{problem.removeprefix(': ')}; {saved}start again"
            raise ConfigError(f"output_dir {self.folder.root}: {words}") from None
        finally:
            self.finishing.close()
            self.leases.close()

    def _run(self) -> int:
        names = list(self.shards)
        progress: Progress | None = None
        try:
            with self.stop.interrupting():
                if self.publisher and not self.publisher.is_taken_by(self.identity):
                    self.publisher.take()
                self._look_over()
            progress = Progress(self.ledger, names, self.here.is_main)
            first = len(names) * self.here.rank // max(self.here.world_size, 1) % len(names)
            order = names[first:] + names[:first]
            begun_complete = not self._left(order)
            while left := self._left(order):
                self._next(left, progress)
        except Interrupted:
            self.finishing.wait()
            progress = progress or Progress(self.ledger, names, self.here.is_main)
            done = len(names) - len(self._left(names))
            progress.say(f"stopped: {done} of {len(names)} shards saved; start again to go on")
            return STOPPED
        except ConfigError as error:
            if not self.here.is_main:
                # The first rank may be well and say nothing.
                log.error("rank %d: %s", self.here.rank, error)
            raise
        self._conclude(progress, "complete, nothing to do" if begun_complete else "complete")
        return self._report(progress, begun_complete)

    def _candidates(self) -> tuple[Candidates, dict[str, Any]]:
        """What gives scored texts, and the identity of the run."""
        config = self.config
        if config.from_table:
            earlier = EarlierRun(Path(config.from_table))
            earlier.require(list(self.shards))
            return earlier, earlier.identity(config)
        for name in ("captioner", "filter"):
            if not getattr(config, name):
                raise ConfigError(f"no {name}: set --{name} to a run folder or weights")
        captioner = self._load(str(config.captioner))
        scorer = captioner
        if config.filter != config.captioner:
            scorer = self._load(str(config.filter))
        candidates = CaptionAndScore(config, captioner, scorer)
        return candidates, identity.of_models(config, captioner, scorer)

    def _load(self, place: str) -> LoadedBlip:
        config = self.config
        section = ModelSection(
            image_size=config.model.image_size, vocabulary=config.model.vocabulary
        )
        device = self.here.device.type
        return load(place, device=device, precision=config.precision, section=section, frozen=True)

    def _look_over(self) -> None:
        """Look at this rank's part of what is finished already."""
        finished = self.ledger.finished()
        # Of all, as the others forget some meanwhile.
        mine = list(self.shards)[self.here.rank :: max(self.here.world_size, 1)]
        for name in (name for name in mine if name in finished):
            problem = self.job.look_over(name, self.shards[name])
            if problem:
                raise ConfigError(
                    f"{self.folder.root}: {problem}; choose another output_dir, or delete "
                    f"{self.ledger.path(name)} to make it again"
                )

    def _left(self, order: list[str]) -> list[str]:
        finished = self.ledger.finished()
        return [name for name in order if name not in finished]

    def _next(self, left: list[str], progress: Progress) -> None:
        """Make one shard that nobody has, or wait a moment."""
        for name in left:
            lease = self.leases.acquire(name) if name != self.finishing.name else None
            if lease is not None:
                self._make(name, lease, progress)
                if self.ledger.finished() & self.shards.keys():
                    progress.line()
                return
        self.finishing.wait()
        if self._left(left):
            with self.stop.interrupting():
                progress.line()
                time.sleep(min(LONGEST_WAIT, self.config.lease_seconds / 5))

    def _make(self, name: str, lease: Lease, progress: Progress) -> None:
        """Score a shard, and have it finished; takes the lease over."""

        def tick(done: int) -> None:
            if lease.lost:
                raise LeaseLostError
            self.finishing.look()
            if done:
                progress.line(done)

        begun, started = time.time(), time.monotonic()

        def finish(desk: Path, scored: ScoredShard, kept: ExitStack) -> None:
            with kept:
                draft = self.job.draft(scored, desk)
                if self.publisher and not lease.lost:
                    self.job.send(draft)
                if not lease.lost:
                    self.job.publish(draft)
                    pairs, seconds = draft.entry.counts.get("pairs", 0), time.monotonic() - started
                    self.times.note(name, pairs, begun, seconds)

        kept: ExitStack | None = None
        with ExitStack() as held:
            held.enter_context(lease)
            if self.ledger.has(name):
                return
            held.enter_context(self._unless_lost(name, lease))
            desk = held.enter_context(self.folder.desk(name))
            with self.stop.interrupting():
                scored = self.job.score(name, self._at_hand(name, desk), tick)
            self.finishing.wait()
            kept = held.pop_all()
        if kept is None:
            return
        if self.publisher is None:
            self.finishing.begin(name, partial(finish, desk, scored, kept))
            return
        # To send may take long, and is left when a stop is asked for, also before it begins.
        with kept, self.stop.interrupting():
            finish(desk, scored, kept)

    @contextmanager
    def _unless_lost(self, name: str, lease: Lease) -> Iterator[None]:
        """What goes wrong with a shard that another process took over is of no interest."""
        try:
            yield
        except LeaseLostError:
            return
        except FileNotFoundError:
            # Who took the shard over cleared this process's desk.
            if not lease.lost and not self.ledger.has(name):
                raise

    def _at_hand(self, name: str, desk: Path) -> Path:
        """A shard's file; one that is named by URL is fetched to a folder on the desk.

        Raises:
            ConfigError: it could not be fetched, or not enough room.
        """
        shard = self.shards[name]
        if isinstance(shard, Path):
            return shard
        self.folder.require_space(name, shard.size() or 0)
        folder = desk / "input"
        folder.mkdir()
        return shard.fetch(folder)

    def _conclude(self, progress: Progress, verdict: str) -> None:
        self.ledger.look_again()
        entries = self.ledger.entries(self.ledger.finished())
        made = totals(entries)
        temporary = self.folder.root / ".work" / f"{SUMMARY}.{uuid.uuid4().hex}"
        write_file(temporary, summary_of(entries))
        put(temporary, self.folder.root / SUMMARY)
        if self.publisher and self.here.is_main:
            about = [self.folder.root / name for name in (SETTINGS, IDENTITY, SUMMARY)]
            self.publisher.send((path, path) for path in about)
        self.folder.clear(set(self.shards))
        ours = self.ledger.entries(self.shards)
        unread = [entry.reason for entry in ours if entry.status == QUARANTINED]
        if ours and len(unread) == len(ours):
            raise ConfigError(f"no shard could be read: {unread[0]}")
        words = f"{self.folder.root}: {verdict}: {made['shards']} shards, "
        words += f"{made['written']} of {made['pairs']} pictures, {shares(made)}"
        words += progress.speed()
        bad = sum(made["bad"].values())
        if bad or made["quarantined_shards"]:
            words += f"; in quarantine/: {bad} samples, {made['quarantined_shards']} shards"
        if self.publisher:
            words += f"; cleaned shards are in {self.publisher.url}"
        progress.say(words)
        if others := sorted(self.ledger.finished() - set(self.shards)):
            gone = f"{len(others)} of these shards are not in data.train any more"
            progress.say(f"{self.folder.root}: {gone}, their pairs stay: {first_of(others)}")
        if what_to_do := nothing_kept(made):
            progress.say(f"{self.folder.root}: {what_to_do}")

    def _report(self, progress: Progress, begun_complete: bool) -> int:
        """Write a page to look at; 0, or 75 when a signal came before it was there.

        It is no part of the output: what hinders it is one line.
        """
        there = begun_complete and (self.folder.root / REPORT).is_file()
        if there or not self.config.report or not self.here.is_main:
            return 0
        try:
            # Of shards that were fetched only what was kept is at hand.
            at_hand = {name: path for name, path in self.shards.items() if isinstance(path, Path)}
            with self.stop.interrupting():
                problem = write_capfilt_report(self.folder.root, at_hand)
        except Interrupted:
            progress.say("stopped: all shards saved; start again to make the report")
            return STOPPED
        if problem:
            log.warning("no report: %s", problem)
        return 0
