"""What servers that mean harm get out of the collector: connections, bytes, seconds."""

import contextlib
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.collect.web.address import Connector
from engine.collect.web.config import FetchSection
from engine.collect.web.refusal import Refused
from engine.collect.web.request import CHUNK, MAX_HEADER
from engine.collect.web.url import Url, parse_url
from engine.collect.web.visit import Again, Job, Visitor

# Seconds a try and bytes a picture.
LIMITS = FetchSection(
    max_bytes=4 << 20, timeout=1.0, retries=0, first_wait=0.0, robots=False, allow_loopback=True
)
# A body of single-byte chunks may take a quarter more on the way, and a header comes before it.
ALLOWED_BYTES = LIMITS.max_bytes + LIMITS.max_bytes // 4 + CHUNK + MAX_HEADER
# To file:, to networks of one's own, to what clouds tell their machines, by names and by numbers.
INWARD = ("/to_private", "/to_metadata", "/to_mapped", "/to_number", "/to_file")
ENDLESS = ("/endless", "/endless_chunks", "/endless_continue", "/gzip_bomb", "/promises_much")
SLOW = ("/drip", "/drip_header", "/drip_chunks", "/mute", "/drip_loop", "/loop")
NAMED = ("private.test", "rebinds.test")


@dataclass
class Cost:
    """What one visit took.

    Attributes:
        reason: why it was refused; "" for a picture.
        received: bytes of its largest answer.
        seconds: from the first question to the refusal.
    """

    reason: str
    received: int
    seconds: float


class Counted:
    """A connection whose bytes are counted."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.received = connection, 0

    def recv_into(self, buffer: memoryview, size: int) -> int:
        """As the socket does."""
        count = self.connection.recv_into(buffer, size)
        self.received += count
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


class Counting(Connector):
    """The collector's connections, which are kept."""

    def __init__(self, resolve: Any, allow_loopback: bool) -> None:
        super().__init__(resolve, allow_loopback)
        self.made: list[Counted] = []

    @contextlib.contextmanager
    def open(self, url: Url, deadline: float) -> Iterator[socket.socket]:
        """One more connection."""
        with super().open(url, deadline) as connection:
            self.made.append(Counted(connection))
            yield self.made[-1]  # type: ignore[misc]


class Elsewhere:
    """Counts connections of this process to anything but one port of this machine.

    The interpreter itself tells of each, before it is made (PEP 578); nothing can be left out.
    """

    def __init__(self, port: int) -> None:
        self.port, self.count, self.here = port, 0, 0
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.connect":
            known = tuple(arguments[1][:2]) == ("127.0.0.1", self.port)
            self.here, self.count = self.here + known, self.count + (not known)


def names() -> Any:
    """A resolver: `.test` is this machine, but one name is of a private network, and one leads to
    what clouds tell their machines from the second question on."""
    asked: Mapping[str, list[list[str]]] = {
        "private.test": [["10.0.0.1"]],
        "rebinds.test": [["169.254.169.254"], ["127.0.0.1"]],
    }

    def resolve(host: str, port: int) -> list[str]:
        answers = asked.get(host, [["127.0.0.1"]] if host.endswith(".test") else [[host]])
        return answers.pop() if len(answers) > 1 else answers[0]

    return resolve


def visit(url: str, **changes: Any) -> Cost:
    """Ask for a picture as the collector does, until there is one or a refusal."""
    settings = replace(LIMITS, **changes)
    connector = Counting(names(), settings.allow_loopback)
    visitor, reason, began = Visitor(settings, connector), "", time.perf_counter()
    try:
        job = Job(0, parse_url(url))
        while isinstance(found := visitor.visit(job), Again):
            time.sleep(found.seconds)
    except Refused as refused:
        reason = refused.reason
    seconds = time.perf_counter() - began
    return Cost(reason, max((one.received for one in connector.made), default=0), seconds)
