"""Real processes: one command on N ranks over gloo, and what they said."""

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Ended:
    """How the ranks ended."""

    codes: list[int]
    said: list[str]


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


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


def start_ranks(words: list[str], ranks: int = 1) -> list[subprocess.Popen]:
    """Start `python WORDS` once a rank."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment(rank, ranks, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(ranks)
    ]


def run_ranks(words: list[str], ranks: int = 1, timeout: int = 240) -> Ended:
    """Run `python WORDS` once a rank and wait for all."""
    processes = start_ranks(words, ranks)
    said = [process.communicate(timeout=timeout)[0] for process in processes]
    return Ended([process.returncode for process in processes], said)
