"""robots.txt of every host, asked for once: what is kept is bounded in bytes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from engine.collect.web.refusal import Refused
from engine.collect.web.request import Answer, retry_after
from engine.collect.web.robots import ALL, NOTHING, Rules, parse_robots
from engine.collect.web.url import Url

# RFC 9309, 2.4; and what a server that is not there is remembered for.
SECONDS, SECONDS_OF_FAILURE = 86_400.0, 300.0
# The same of one that may be well again at any time.
SECONDS_OF_PASSING = 5.0
MAX_COST = 32 << 20
MAX_REDIRECTS = 5


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    rules: Rules | None = None
    failure: Refused | None = None
    until: float = 0.0
    cost: int = 0


class RobotsCache:
    """What hosts allow.

    Args:
        ask: GETs a URL within the bounds of a robots.txt.
        agent: our token, lower case.
    """

    def __init__(self, ask: Callable[[Url], Answer], agent: str) -> None:
        self._ask, self.agent = ask, agent
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()
        self._cost = 0

    def rules(self, url: Url) -> Rules:
        """The rules of a URL's server.

        Raises:
            Refused: `robots_unreachable` where the server is too unwell to tell them, or what kept
                us from asking.
        """
        with self._lock:
            entry = self._entries.setdefault(url.origin, _Entry())
            self._entries.move_to_end(url.origin)
        with entry.lock:
            if time.monotonic() >= entry.until:
                self._fill(entry, url)
            if (failure := entry.failure) is not None:
                facts = {"passing": failure.passing, "wait": failure.wait, "status": failure.status}
                raise Refused(failure.reason, **facts)
            return entry.rules or ALL

    def _fill(self, entry: _Entry, url: Url) -> None:
        try:
            rules, seconds, failure = self._read(url), SECONDS, None
        except Refused as refused:
            rules, seconds, failure = None, SECONDS_OF_FAILURE, refused
            if refused.passing:
                # Rows try again by themselves, all of a host about at once.
                seconds = min(max(refused.wait or 0.0, SECONDS_OF_PASSING), seconds)
        entry.rules, entry.failure = rules, failure
        entry.until = time.monotonic() + seconds
        with self._lock:
            if self._entries.get(url.origin) is not entry:
                # Given up meanwhile: what was read serves this row alone.
                return
            cost = (rules or ALL).cost
            self._cost += cost - entry.cost
            entry.cost = cost
            while self._cost > MAX_COST and len(self._entries) > 1:
                self._cost -= self._entries.popitem(last=False)[1].cost

    def _read(self, url: Url) -> Rules:
        place = replace(url, path="/robots.txt")
        for _ in range(MAX_REDIRECTS + 1):
            try:
                answer = self._ask(place)
            except Refused as refused:
                if refused.reason == "too_large":
                    return NOTHING
                if refused.status == 200 or refused.reason in ("bad_answer", "header_too_large"):
                    raise Refused("robots_unreachable", passing=refused.passing) from None
                raise
            if answer.location is not None:
                place = place.joined(answer.location)
            elif answer.status == 200:
                return parse_robots(answer.body, self.agent)
            elif answer.status == 429 or answer.status >= 500:
                wait = retry_after(answer.headers)
                raise Refused("robots_unreachable", passing=True, wait=wait, status=answer.status)
            else:
                return ALL
        return ALL
