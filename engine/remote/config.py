"""Settings of transfers by URL."""

from dataclasses import dataclass

from engine.ranges import NOT_NEGATIVE, POSITIVE

RANGES = {
    "remote.retries": NOT_NEGATIVE,
    "remote.first_wait": NOT_NEGATIVE,
    "remote.timeout": POSITIVE,
}


@dataclass(frozen=True, kw_only=True)
class RemoteSection:
    """How files are reached that are named by URL.

    Args:
        retries: further tries of a transfer that failed.
        first_wait: seconds before the first of them; each later one waits twice as long, at most a
            minute.
        timeout: seconds of silence after which a web server is given up.
        allow_private: http(s) also from loopback, private and link-local addresses, and through the
            proxy that the environment names.
    """

    retries: int = 5
    first_wait: float = 1.0
    timeout: float = 60.0
    allow_private: bool = False
