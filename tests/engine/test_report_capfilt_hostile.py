"""Captions, keys, uids, reasons and settings of a run are hostile: the page stays what it is."""

import http.server
import json
import shutil
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.capfilt.rule import SYNTHETIC, WEB, Candidate
from engine.capfilt.table import Scored
from engine.report.page import ReportConfig, write_report
from tests.capfilt_folder import data_of, write_capfilt
from tests.payloads import MARK, payloads
from tests.report_run import Elements, page_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=4000",
]


def hostile_run(root: Path, texts: list[str]) -> Path:
    """A run in which every text of strangers is a payload."""
    pictures = [
        Scored(
            f"{number}{text}",
            text,
            [
                Candidate(WEB, text, 0.9, 0.3),
                Candidate(SYNTHETIC, text + " a fox", 0.1, 0.2),
                Candidate(SYNTHETIC, text, None, None, text[:400]),
            ],
        )
        for number, text in enumerate(texts)
    ]
    # What a file can be called at all.
    name = texts[8].replace("/", "")[:80]
    write_capfilt(root, {name: pictures}, train=texts[0])
    rows = [{"shard": t, "key": t, "uid": t, "reason": t[:150]} for t in texts]
    rows += [{"shard": t, "reason": t} for t in texts[:9]]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "quarantine" / "x.jsonl").write_text(lines)
    times = [
        {"shard": t, "pictures": 2, "begun": n, "ended": n + 3, "process": t}
        for n, t in enumerate(texts)
    ]
    (root / "throughput.jsonl").write_text("".join(json.dumps(row) + "\n" for row in times))
    rounds = [
        {"round": n, "accepted": n % 2, "reasons": [t], "guard": {t: t, "kept_share": 0.5}}
        | {"folders": {t: t, "capfilt": str(root)}}
        for n, t in enumerate(texts[:9])
    ]
    (root.parent / "bootstrap.json").write_text(json.dumps({"rounds": rounds, "best_round": 0}))
    return root


def tags(page: str) -> Counter[str]:
    return Counter(tag for tag, _ in Elements(page).found)


def test_there_are_thirty() -> None:
    assert len(set(payloads("x"))) == 30


@pytest.mark.parametrize("rounds", [False, True])
def test_payloads_add_no_element(tmp_path: Path, rounds: bool) -> None:
    """Their page has the same elements as that of a run with harmless words in their place."""
    pages = []
    for name, texts in (
        ("hostile", payloads("http" + "://127.0.0.1:9")),
        ("harmless", [f"word {number}" for number in range(30)]),
    ):
        root = hostile_run(tmp_path / name / "run", texts)
        pages.append(page_of(root.parent if rounds else root))
    hostile, harmless = pages
    assert tags(hostile) == tags(harmless)
    elements = Elements(hostile)
    for tag, attributes in elements.found:
        assert not [one for one in attributes if one.startswith("on") or one == "style"], tag
        assert not {"href", "src", "action", "srcdoc"} & attributes.keys() or tag == "img"
    assert len(elements.of("script")) == 2
    # Data cannot end its element, and loses nothing but control characters.
    blob = hostile.partition('id="capfilt-data">')[2].partition("</script>")[0]
    assert not set("<>&\u2028\u2029\u202e") & set(blob)
    shown = {"".join(one[4][0][1]) for one in data_of(hostile)["pictures"]}
    for text in payloads("http" + "://127.0.0.1:9"):
        if "\u202e" not in text and "\x00" not in text and len(text) < 300:
            assert text in shown


@contextmanager
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server's address and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def dom_after(page: Path, profile: Path) -> str:
    """The document after Chromium has run what it runs."""
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=250).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
def test_in_chromium_no_payload_acts(tmp_path: Path) -> None:
    with canary() as (address, asked):
        texts = payloads(address)
        # That the payloads act where nothing stops them: else the rest would prove nothing.
        bare = tmp_path / "bare.html"
        bare.write_text("<!doctype html><title>bare</title>" + "\n<p>".join(texts[:9]))
        assert "data-acted" in dom_after(bare, tmp_path / "profile")
        assert asked
        asked.clear()
        root = hostile_run(tmp_path / "run", texts)
        page = write_report(ReportConfig(run=str(root)), lambda line: None)
        dom = dom_after(page, tmp_path / "profile")
    assert not asked
    elements = Elements(dom)
    assert "data-acted" not in dom.partition("<head>")[0]
    assert MARK in elements.text
    # The script has run: every picture has a card, with the payload as its text.
    assert dom.count('<li class="pair card">') == 30
    shown = {tag for tag, _ in elements.found}
    assert not shown & {"iframe", "object", "base", "a", "link", "animate", "video", "details"}
    assert len(elements.of("script")) == 2
    assert [one for one in elements.of("meta") if "http-equiv" in one] == [elements.of("meta")[1]]
    assert not [name for _, attributes in elements.found for name in attributes if name[:2] == "on"]
