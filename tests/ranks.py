"""What a launcher gives the ranks of one command, and where they meet."""

import itertools
import os
import socket
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Below those that a system gives out by itself, which anything may be given before a rank takes it;
# and others for each worker of the tests.
PORTS = itertools.count(20_000 + os.getpid() % 150 * 64)


def free_port() -> int:
    """A port that is free now, and that only this process gives out."""
    for port in PORTS:
        with socket.socket() as listener:
            # As the one that will take it; one that a run has just left is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
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
