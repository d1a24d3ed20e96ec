"""Collections of pictures from a server on this machine."""

import csv
import itertools
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from engine.collect.web.config import FetchSection, ScreenSection, WebConfig
from engine.collect.web.run import collect_web
from engine.data.shards import Shards
from tests.commands import contents
from tests.hostile_answers import Request
from tests.hostile_web import Hostile
from tests.ranks import ROOT

# Seconds that a process may take.
PATIENCE = 500
FETCH: dict[str, Any] = {
    "timeout": 120.0,
    "retries": 1,
    "first_wait": 0.0,
    "host_connections": 8,
    "host_delay": 0.0,
    "allow_loopback": True,
    "robots": False,
}


def write_list(path: Path, rows: list[tuple[Any, Any]]) -> Path:
    """A CSV of URLs and captions."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("url", "caption"), *rows])
    return path


def pairs(server: Hostile, count: int) -> list[tuple[str, str]]:
    """So many pairs that all are kept."""
    url = f"http://127.0.0.1:{server.port}/p"
    return [(f"{url}/{number}", f"pattern of number {number}") for number in range(count)]


def settings(source: Path, output: Path, **changes: Any) -> WebConfig:
    """A collection from this machine, 20 rows a shard."""
    fetch = FetchSection(**{**FETCH, **changes.pop("fetch", {})})
    screen = ScreenSection(**changes.pop("screen", {}))
    sizes = {"samples_per_shard": 20, "workers": 4, **changes}
    return WebConfig(pairs=str(source), output_dir=str(output), fetch=fetch, screen=screen, **sizes)


def collect(source: Path, output: Path, **changes: Any) -> list[dict[str, Any]]:
    """Rows of the tables of a whole collection."""
    assert collect_web(settings(source, output, **changes), False) == 0
    return rows_of(output)


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Rows of all tables, in order."""
    parts = [pq.read_table(path) for path in sorted((output / "table").glob("*.parquet"))]
    return [row for part in parts for row in part.to_pylist()]


def reasons(rows: list[dict[str, Any]]) -> Counter[str]:
    """How often each reason is there; "" for what was kept."""
    return Counter(row["reason"] for row in rows)


def command(source: Path, output: Path, *more: object) -> subprocess.Popen[str]:
    """The same collection as a process of its own."""
    flags = [f"--fetch.{key}={str(value).lower()}" for key, value in FETCH.items()]
    words = ["web", "--pairs", source, "--output_dir", output, *flags, *more]
    line = [sys.executable, ROOT / "launch" / "collect.py", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Signaller:
    """Sends a signal to a process when the server is asked for the n-th time.

    Args:
        count: of that time, from 1.
        number: signal.
    """

    def __init__(self, count: int, number: signal.Signals) -> None:
        self.number = number
        # The server asks from many threads: taking the next of these is one operation.
        self._places = itertools.count(1)
        self._count = count
        self._started = threading.Event()

    def start(self, source: Path, output: Path, *more: object) -> subprocess.Popen[str]:
        """The collection that gets the signal; it may ask before we know its number."""
        self._process = command(source, output, *more)
        self._started.set()
        return self._process

    def __call__(self, _: Request) -> None:
        if next(self._places) == self._count:
            self._started.wait()
            self._process.send_signal(self.number)


def output_of(folder: Path) -> dict[str, str]:
    """All files of a collection but its lock, by hash."""
    return {name: digest for name, digest in contents(folder).items() if name != ".lock"}


def samples(folder: Path) -> dict[str, tuple[str, bytes | None, bytes | None, bytes | None]]:
    """Shard and key, picture, caption and JSON of each sample, by uid."""
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        source = Shards([shard])
        for number in range(len(source)):
            parts, problem = source.members(number)
            assert problem is None
            index = source.index(0)
            key, uid = index.keys[number].as_py(), index.uids[number].as_py()
            found[uid] = (f"{shard.name}/{key}", parts["image"], parts["txt"], parts["json"])
    return found


def traces(folder: Path, url: str, caption: str, picture: bytes) -> list[Path]:
    """Files that still hold something of a pair of `pairs`."""
    marks = (f'"{url}"'.encode(), f"{caption}\0".encode(), picture)
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if any(mark in path.read_bytes() for mark in marks)]
