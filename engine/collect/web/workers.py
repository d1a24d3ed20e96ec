"""Threads that ask servers, each for one row at a time."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.collect.web.config import WebConfig
from engine.collect.web.journal import Outcome
from engine.collect.web.picture import PictureScreen
from engine.collect.web.refusal import Refused
from engine.collect.web.request import Answer
from engine.collect.web.schedule import Schedule
from engine.collect.web.visit import Again, Job, Visitor

Report = Callable[[Outcome, bytes], None]


class Workers:
    """Takes rows from a schedule, and reports what became of them.

    Args:
        config: of the collection.
        schedule: of requests.
        visitor: makes them.
        report: is told of each outcome, with the picture; from any thread.
    """

    def __init__(
        self, config: WebConfig, schedule: Schedule, visitor: Visitor, report: Report
    ) -> None:
        self.schedule, self.visitor, self.report = schedule, visitor, report
        self.pictures = PictureScreen(config.screen, config.decoders)
        self.failure: Exception | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"fetch-{n}", daemon=True)
            for n in range(config.workers)
        ]
        for thread in self._threads:
            thread.start()

    def close(self, seconds: float) -> None:
        """No more requests; wait for those in flight, which are reported like all others."""
        self.schedule.close()
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _work(self) -> None:
        try:
            while (job := self.schedule.take()) is not None:
                self._row(job)
        # Whatever it is, the main thread must know: a row would be waited for without end.
        except Exception as error:  # noqa: BLE001
            self.failure = self.failure or error
            self.schedule.close()

    def _row(self, job: Job) -> None:
        host = job.url.host
        try:
            answer = self.visitor.visit(job)
        except Refused as refused:
            self.schedule.done(host, job.pause)
            self.report(_outcome(job, refused.reason, refused.status), b"")
            return
        except BaseException:
            self.schedule.done(host)
            raise
        self.schedule.done(host, job.pause)
        if isinstance(answer, Again):
            self.schedule.add(job, answer.seconds)
        else:
            self._arrived(job, answer)

    def _arrived(self, job: Job, answer: Answer) -> None:
        content = answer.body
        outcome = _outcome(job, "", answer.status)
        facts: dict[str, Any] = {"source": str(job.url), "size": len(content)}
        try:
            picture = self.pictures.look_at(content)
        except Refused as refused:
            self.report(replace(outcome, **facts, reason=refused.reason), b"")
            return
        facts |= {"extension": picture.extension, "look": picture.look.to_bytes().hex()}
        facts |= {"width": picture.width, "height": picture.height}
        self.report(replace(outcome, **facts), content)


def _outcome(job: Job, reason: str, status: int | None) -> Outcome:
    return Outcome(job.row, reason, status, job.redirects, job.tries + 1)
