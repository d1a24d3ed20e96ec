"""What a launcher gives the ranks of one command, and where they meet."""

import itertools
import os
import socket
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Below those that a system gives out by itself, which anything may be given before a rank takes it.
PORTS = itertools.cycle(range(20_000, 29_500))
# Of the last starts; a run that is over needs its own no more.
KEPT: deque[socket.socket] = deque()
MOST_KEPT = 16


def free_port() -> int:
    """A port that nobody has, and that no other process is given before this one has taken more.

    It stays bound here. A second socket may be bound to it and listen if both share their address,
    as those of ranks do; a look like this one, which does not, finds it taken.
    """
    if len(KEPT) == MOST_KEPT:
        KEPT.popleft().close()
    for port in PORTS:
        kept = socket.socket()
        try:
            kept.bind(("127.0.0.1", port))
        except OSError:
            kept.close()
            continue
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        KEPT.append(kept)
        return port
    raise AssertionError("ports are without end")


def environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What a launcher sets."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
