"""The report in a real browser: no payload acts, and thresholds can be dragged."""

import http.server
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.capfilt.config import RuleSection
from engine.capfilt.rule import SYNTHETIC, WEB, Candidate
from engine.capfilt.table import Scored
from engine.report import page
from engine.report.page import ReportConfig
from tests.browser import CHROMIUM, FLAGS, needs_chromium, open_tab
from tests.capfilt_folder import write_capfilt
from tests.payloads import MARK, hostile_run, payloads
from tests.report_run import Elements


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


def dom_after(file: Path, profile: Path) -> str:
    """The document after Chromium has run what it runs."""
    ends = ("--virtual-time-budget=4000", "--dump-dom", file.as_uri())
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *ends]
    return subprocess.run(command, capture_output=True, text=True, timeout=500).stdout


def dom_of(file: Path, profile: Path) -> str:
    """The document once it is loaded and its scripts have run, however long that takes."""
    with open_tab(profile) as tab:
        tab.go(file.as_uri())
        return tab.value("document.documentElement.outerHTML")


@pytest.mark.slow
@needs_chromium
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
        written = page.write_report(ReportConfig(run=str(root)), print)
        dom = dom_after(written, tmp_path / "profile")
    assert not asked
    elements = Elements(dom)
    assert "data-acted" not in dom.partition("<head>")[0]
    assert MARK in elements.text
    # The script has run: every picture has a card, with the payload as its text.
    assert dom.count('<li class="pair card">') == 30
    shown = {tag for tag, _ in elements.found}
    assert not shown & {"iframe", "object", "base", "a", "link", "animate", "video"}
    assert len(elements.of("script")) == 2
    assert [one for one in elements.of("meta") if "http-equiv" in one] == [elements.of("meta")[1]]
    assert not [name for _, attributes in elements.found for name in attributes if name[:2] == "on"]


DRIVER = """
byId("itm").value = 0.9;
byId("itm").dispatchEvent(new Event("input"));
byId("verdict").value = "c";
byId("order").value = "dif2";
byId("controls").dispatchEvent(new Event("input"));
"""


@pytest.mark.slow
@needs_chromium
def test_a_threshold_that_is_dragged_changes_counts_cards_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's own script, moved by one more that its policy allows by hash."""
    driver = tmp_path / "driver.js"
    driver.write_text(DRIVER)
    monkeypatch.setattr(page, "SCRIPTS", (*page.SCRIPTS, str(driver)))
    pictures = []
    for number in range(40):
        itm = (number + 0.5) / 40
        texts = [Candidate(WEB, f"fox {number}", itm, 0.3), Candidate(SYNTHETIC, "fox", 0.1, 0.2)]
        pictures.append(Scored(f"{number:02d}", f"u{number}", texts))
    root = write_capfilt(tmp_path / "run", {"a": pictures})
    dom = dom_of(page.write_report(ReportConfig(run=str(root)), print), tmp_path / "profile")
    text = " ".join(Elements(dom).text.split())
    # 20 of 40 web texts reach 0.5, four of them 0.9; no synthetic one does.
    assert "web texts 20 4 of 40 −16" in text
    assert "synthetic texts 0 0 of 40 –" in text
    assert "pictures with a text 20 4 of 40 −16" in text
    assert "--rule.itm_threshold 0.9" in text
    assert "16 of 40 pictures" in text
    assert dom.count("text dropped changed") == 16
    assert dom.count("✕ no match, changed") == 16
    # Sorted by how far the synthetic text is above the web one: the lowest web score first.
    assert re.findall(r'title="(\d\d) · uid', dom)[:2] == ["20", "21"]


@pytest.mark.slow
@needs_chromium
def test_texts_that_are_not_shown_are_judged_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 0.85 the best by similarity is one of those behind the six that are shown."""
    driver = tmp_path / "driver.js"
    driver.write_text('byId("itm").value = 0.85;\nbyId("itm").dispatchEvent(new Event("input"));')
    monkeypatch.setattr(page, "SCRIPTS", (*page.SCRIPTS, str(driver)))
    texts = [Candidate(SYNTHETIC, f"fox {n}", 0.905 - n / 100, 0.1 + n / 20) for n in range(9)]
    root = write_capfilt(
        tmp_path / "run",
        {"a": [Scored("0", "0", texts)]},
        RuleSection(best_synthetic=1, rank_by="itc"),
    )
    dom = dom_of(page.write_report(ReportConfig(run=str(root)), print), tmp_path / "profile")
    text = " ".join(Elements(dom).text.split())
    assert "and 3 more texts, 1 of them kept" in text
    assert 'class="text kept' not in dom
    assert "✕ no match, changed 0.82 · 0.50 fox 8" in text
