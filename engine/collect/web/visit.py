"""A row of the list on its way to a picture: robots, redirects, another try, and an outcome."""

import time
from dataclasses import dataclass, field

from engine.collect.web.address import Connector
from engine.collect.web.config import FetchSection
from engine.collect.web.opt_out import opts_out
from engine.collect.web.refusal import Refused
from engine.collect.web.request import PASSING, Answer, ask, retry_after
from engine.collect.web.robots import MAX_BYTES as ROBOTS_BYTES
from engine.collect.web.robots_cache import RobotsCache
from engine.collect.web.url import Url

# A host that asks for a longer pause between requests gets this one.
LONGEST_DELAY = 10.0


@dataclass
class Job:
    """A row in work.

    Attributes:
        row: its number in the list.
        url: to ask next.
        redirects: followed so far, in this try.
        tries: begun so far.
        spent: seconds of this try.
        pause: seconds that the host just asked wants to be left alone for.
        first: that the list names.
    """

    row: int
    url: Url
    redirects: int = 0
    tries: int = 0
    spent: float = 0.0
    pause: float = 0.0
    first: Url = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.url


@dataclass(frozen=True)
class Again:
    """Ask `job.url` in so many seconds."""

    seconds: float = 0.0


class Visitor:
    """Asks servers.

    Args:
        settings: bounds and manners.
        connector: opens connections.
    """

    def __init__(self, settings: FetchSection, connector: Connector) -> None:
        self.settings, self.connector = settings, connector
        self.token = settings.user_agent.partition("/")[0].partition(" ")[0].lower()
        self.robots = RobotsCache(self._robots, self.token)

    def visit(self, job: Job) -> Answer | Again:
        """One request for a row.

        Returns:
            The answer with the picture's bytes; or that the row is to be queued once more, for
            another try or for where it was sent on to.

        Raises:
            Refused: the row yields no picture.
        """
        job.pause = 0.0
        try:
            self._ask_robots(job)
            answer = self._ask(job)
            if answer.location is not None:
                self._follow(job, answer.location)
                return Again()
            if answer.status != 200:
                passing = answer.status in PASSING
                wait = retry_after(answer.headers) if passing else None
                raise Refused("http_status", passing=passing, wait=wait, status=answer.status)
            return answer
        except Refused as refused:
            return self._another_try(job, refused)

    def _ask_robots(self, job: Job) -> None:
        if not self.settings.robots:
            return
        rules = self.robots.rules(job.url)
        if not rules.allow(job.url.path):
            raise Refused("robots")
        job.pause = min(rules.delay, LONGEST_DELAY)

    def _ask(self, job: Job) -> Answer:
        begun = time.monotonic()
        deadline = begun + self.settings.timeout - job.spent
        agent, most = self.settings.user_agent, self.settings.max_bytes
        try:
            answer = ask(self.connector, job.url, agent, most, deadline)
        finally:
            job.spent += time.monotonic() - begun
        if opts_out(answer.headers, self.token):
            raise Refused("opt_out", status=answer.status)
        return answer

    def _robots(self, url: Url) -> Answer:
        deadline = time.monotonic() + self.settings.timeout
        return ask(self.connector, url, self.settings.user_agent, ROBOTS_BYTES, deadline)

    def _follow(self, job: Job, location: str) -> None:
        if job.redirects == self.settings.max_redirects:
            raise Refused("too_many_redirects")
        job.url, job.redirects = job.url.joined(location), job.redirects + 1

    def _another_try(self, job: Job, refused: Refused) -> Again:
        """After a failure that may pass, unless the server wants to be left alone for too long."""
        seconds = self.settings.first_wait * 2**job.tries
        if refused.wait is not None:
            seconds = max(seconds, refused.wait)
        last = not refused.passing or job.tries == self.settings.retries
        if last or seconds > self.settings.longest_wait:
            # The row is given up, its host is still left alone as it asked to be.
            job.pause = max(job.pause, min(refused.wait or 0.0, LONGEST_DELAY))
            raise refused
        job.pause = max(job.pause, refused.wait or 0.0)
        job.tries += 1
        job.url, job.redirects, job.spent = job.first, 0, 0.0
        return Again(seconds)
