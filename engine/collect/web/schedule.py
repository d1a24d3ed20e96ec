"""Who is asked next: so many connections and a pause for each host, the oldest request first.

A host is a name. A redirect to another host queues there like a row of the list, so that many
URLs that lead to one server do not meet it at once.
"""

import heapq
import itertools
import threading
import time
from collections import Counter, deque

from engine.collect.web.visit import Job

# Hosts remembered before those that may be asked again at once are forgotten.
HOSTS = 10_000


class Schedule:
    """Requests that wait for their host.

    Args:
        connections: most at once to a host.
        delay: seconds between the starts of two of them.
    """

    def __init__(self, connections: int, delay: float) -> None:
        self.connections, self.delay = connections, delay
        self._waiting: dict[str, deque[Job]] = {}
        self._active: Counter[str] = Counter()
        self._free_at: dict[str, float] = {}
        self._ready: list[tuple[float, int, str]] = []
        self._later: list[tuple[float, int, Job]] = []
        self._offered: set[str] = set()
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False

    def add(self, job: Job, seconds: float = 0.0) -> None:
        """Queue a request, to be made in so many seconds at the earliest."""
        with self._changed:
            if seconds > 0:
                moment = time.monotonic() + seconds
                heapq.heappush(self._later, (moment, next(self._numbers), job))
            else:
                self._queue(job)
            self._changed.notify()

    def take(self) -> Job | None:
        """The next request; its host is then busy until `done`. None when closed."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    self._queue(heapq.heappop(self._later)[2])
                while self._ready and self._ready[0][0] <= now:
                    host = heapq.heappop(self._ready)[2]
                    self._offered.discard(host)
                    # It may have asked for a pause meanwhile.
                    if self._free_at.get(host, 0.0) <= now:
                        return self._start(host, now)
                    self._offer(host)
                moments = [heap[0][0] for heap in (self._ready, self._later) if heap]
                self._changed.wait(min(moments) - now if moments else None)
            return None

    def done(self, host: str, pause: float = 0.0) -> None:
        """A request to a host has ended; it is to be left alone for `pause` seconds at least."""
        with self._changed:
            self._active[host] -= 1
            if not self._active[host]:
                del self._active[host]
            if pause:
                self.pause(host, pause)
            self._offer(host)
            if len(self._free_at) > HOSTS:
                self._forget()
            self._changed.notify()

    def pause(self, host: str, seconds: float) -> None:
        """Leave a host alone for so long at least."""
        with self._changed:
            moment = time.monotonic() + seconds
            self._free_at[host] = max(self._free_at.get(host, 0.0), moment)

    def close(self) -> None:
        """Nobody is asked any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _queue(self, job: Job) -> None:
        self._waiting.setdefault(job.url.host, deque()).append(job)
        self._offer(job.url.host)

    def _offer(self, host: str) -> None:
        if (
            host in self._waiting
            and host not in self._offered
            and self._active[host] < self.connections
        ):
            self._offered.add(host)
            moment = self._free_at.get(host, 0.0)
            heapq.heappush(self._ready, (moment, next(self._numbers), host))

    def _start(self, host: str, now: float) -> Job:
        queue = self._waiting[host]
        job = queue.popleft()
        if not queue:
            del self._waiting[host]
        self._active[host] += 1
        self._free_at[host] = now + self.delay
        self._offer(host)
        # Others may wait for a moment that has become an earlier one.
        self._changed.notify()
        return job

    def _forget(self) -> None:
        now = time.monotonic()
        busy = self._active.keys() | self._waiting.keys()
        gone = [h for h, moment in self._free_at.items() if moment <= now and h not in busy]
        for host in gone:
            del self._free_at[host]
