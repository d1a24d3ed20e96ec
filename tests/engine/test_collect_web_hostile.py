"""Servers, redirects and names that mean harm: each row says why, and no other is lost."""

import csv
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from engine.collect.web.address import system_resolve
from engine.collect.web.config import FetchSection, ScreenSection, WebConfig
from engine.collect.web.run import collect_web
from engine.data.pack import verify_shards
from engine.data.shards import Shards
from tests.hostile_answers import CASES, GOOD, SLOW
from tests.hostile_web import Hostile, hostile_server

# The certificate is for the first of them.
PEM, TLS_HOSTS = Path(__file__).parents[1] / "hostile_web.pem", ("good.test", "bad.test")
FETCH: dict[str, Any] = {
    "max_bytes": 1 << 20,
    # No answer takes that long but those of the test that says so.
    "timeout": 120.0,
    "retries": 1,
    "first_wait": 0.0,
    "host_connections": 8,
    "host_delay": 0.0,
    "allow_loopback": True,
}


REFUSED = [
    ("http://private.test/a.png", "private_address"),
    ("http://mixed.test:PORT/good", "private_address"),
    ("http://nat64.test/a.png", "private_address"),
    ("http://10.1.2.3/a.png", "private_address"),
    ("http://0/a.png", "private_address"),
    ("http://[fd00::1]/a.png", "private_address"),
    ("http://public_port.test:25/a.png", "port"),
    ("http://missing.test/a.png", "dns"),
    ("http://none.test/a.png", "dns"),
    ("https://tls.test:PORT/good", "tls"),
    ("http://closed.test:PORT/good", "robots"),
    ("http://partly.test:PORT/good", ""),
    ("http://partly.test:PORT/private/good", "robots"),
    ("http://partly.test:PORT/%70rivate/good", "robots"),
    ("http://named.test:PORT/good", "robots"),
    ("http://unwell.test:PORT/good", "robots_unreachable"),
    ("http://huge.test:PORT/good", "robots"),
    ("http://inside.test:PORT/good", "private_address"),
    ("file:///etc/passwd", "scheme"),
    ("gopher://127.0.0.1:PORT/good", "scheme"),
    ("//127.0.0.1/good", "bad_url"),
    ("http://me:secret@127.0.0.1:PORT/good", "bad_url"),
    ("http://127.0.0.1:99999/good", "bad_url"),
    ("http:///good", "bad_url"),
    ("http://a b.test/good", "bad_url"),
    ("http://127.0.0.1:PORT/go\tod\r\nX: y", "bad_url"),
    ("http://127.0.0.1:PORT/" + "x" * 5000, "bad_url"),
    ("", "bad_url"),
]


def names(host: str, port: int) -> list[str]:
    """The resolver of these tests: `.test` is this machine, but for names that lead elsewhere."""
    elsewhere = {
        "private.test": ["10.0.0.1"],
        "mixed.test": ["127.0.0.1", "192.168.0.1"],
        "nat64.test": ["64:ff9b::a00:1"],
        "none.test": [],
        "public_port.test": ["93.184.216.34"],
    }
    if host == "missing.test":
        raise socket.gaierror(socket.EAI_NONAME, "no such name")
    if host.endswith(".test"):
        return elsewhere.get(host, ["127.0.0.1"])
    return system_resolve(host, port)


def collect(
    folder: Path, rows: list[tuple[str, str]], resolve: Callable = names, **fetch: Any
) -> list[dict[str, Any]]:
    """Rows of the table of a collection; its shards are whole."""
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("url", "caption"), *rows])
    config = WebConfig(
        pairs=str(folder / "list.csv"),
        output_dir=str(folder / "out"),
        workers=8,
        fetch=FetchSection(**{**FETCH, **fetch}),
        screen=ScreenSection(near=None),
    )
    assert collect_web(config, False, resolve) == 0
    table = pq.read_table(folder / "out" / "table").to_pylist()
    kept = [row for row in table if row["kept"]]
    if kept:
        assert verify_shards([str(folder / "out")], lambda line: None).samples == len(kept)
    assert not list((folder / "out" / "work").iterdir())
    return table


def urls(server: Hostile, paths: list[str], host: str = "127.0.0.1") -> list[tuple[str, str]]:
    return [(f"http://{host}:{server.port}{path}", f"what {path} shows") for path in paths]


def test_every_hostile_answer_has_its_reason_and_no_other_row_is_lost(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with hostile_server() as server:
        # What a first collection opens for good is none of what is looked for.
        collect(tmp_path_factory.mktemp("first"), urls(server, ["/good?first"]))
    descriptors = len(os.listdir("/proc/self/fd"))
    with hostile_server() as server:
        # A good picture follows each trouble.
        paths = [way for path in CASES for way in (path, f"/good?{path[1:]}")]
        table = collect(tmp_path, urls(server, paths))
    reasons = {path: row["reason"] for path, row in zip(paths, table, strict=True)}
    assert {path: reasons[path] for path in CASES} == {p: why for p, (_, why) in CASES.items()}
    assert all(reasons[path] == "" for path in paths[1::2])
    shards = Shards([tmp_path / "out" / "00000.tar"])
    assert all(shards.read(n).image == GOOD for n in range(len(shards)))
    assert len(shards) == sum(row["kept"] for row in table)
    # It holds its file open, which is not the collector's.
    del shards
    assert {path.name for path in tmp_path.iterdir()} == {"list.csv", "out"}
    # Passing troubles were tried once more, others were not.
    asked = {path: server.asked[f"127.0.0.1{path}"] for path in CASES}
    twice = {path for path, count in asked.items() if count == 2}
    assert twice >= {"/reset", "/cut", "/unwell", "/unwell_once", "/busy_once"}
    assert asked["/busy"] == asked["/gone"] == asked["/endless"] == asked["/noai"] == 1
    assert asked["/loop"] == FetchSection().max_redirects + 1
    status = {path: row["status"] for path, row in zip(paths, table, strict=True)}
    assert (status["/gone"], status["/busy"], status["/unwell"]) == (404, 429, 503)
    assert not [t for t in threading.enumerate() if t.name.startswith("fetch-")]
    # The server's own ends are let go of by its threads, each in its time.
    for _ in range(3000):
        if len(os.listdir("/proc/self/fd")) <= descriptors:
            break
        time.sleep(0.1)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_what_is_slow_without_being_silent_ends(tmp_path: Path) -> None:
    over = threading.Event()

    def slow_name(host: str, port: int) -> list[str]:
        if host == "slow.test":
            over.wait()
        return names(host, port)

    with hostile_server() as server:
        rows = urls(server, [*SLOW]) + urls(server, ["/good"], "slow.test")
        settings = {"timeout": 1.0, "robots": False, "max_redirects": 99}
        try:
            table = collect(tmp_path, rows, slow_name, **settings)
        finally:
            over.set()
        assert [row["reason"] for row in table] == ["timeout"] * len(rows)


def test_urls_and_names_that_are_refused(tmp_path: Path) -> None:
    with hostile_server() as server:
        rows = [(url.replace("PORT", str(server.port)), f"what {url} shows") for url, _ in REFUSED]
        table = collect(tmp_path, rows)
        found = [(url, row["reason"]) for (url, _), row in zip(REFUSED, table, strict=True)]
        assert found == REFUSED
        met = {path for path in server.asked if not path.endswith("/robots.txt")}
        assert met == {"partly.test/good"}


def test_a_name_is_resolved_once_for_each_connection(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def changing(host: str, port: int) -> list[str]:
        """Good for the first question; then the machine's own network."""
        asked[host] += 1
        return ["127.0.0.1"] if asked[host] == 1 else ["169.254.169.254"]

    with hostile_server() as server:
        row = urls(server, ["/good"], "changes.test")
        assert collect(tmp_path, row, changing, robots=False)[0]["reason"] == ""
        assert (asked["changes.test"], server.asked["changes.test/good"]) == (1, 1)
        (tmp_path / "second").mkdir()
        # robots.txt is the first connection, the picture the second: it is looked at anew.
        asked.clear()
        table = collect(tmp_path / "second", row, changing)
        assert table[0]["reason"] == "private_address"
        assert (asked["changes.test"], server.asked["changes.test/good"]) == (2, 1)


def test_loopback_is_as_private_as_the_rest_without_the_flag(tmp_path: Path) -> None:
    with hostile_server() as server:
        table = collect(tmp_path, urls(server, ["/good"]), allow_loopback=False)
        assert table[0]["reason"] == "private_address"
        assert not server.asked


def test_a_certificate_must_be_for_the_name_and_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hostile_server(tls=PEM) as server:
        rows = [(f"https://{host}:{server.port}/good", f"what {host} shows") for host in TLS_HOSTS]
        untrusted = collect(tmp_path, rows)
        assert [row["reason"] for row in untrusted] == ["tls", "tls"]
        assert not server.asked
        monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
        (tmp_path / "trusted").mkdir()
        trusted = collect(tmp_path / "trusted", rows)
        assert [row["reason"] for row in trusted] == ["", "tls"]
