"""Chromium as a test drives it: its own protocol over a pipe, clicks and keys as a user's."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # A container's /dev/shm may have 64 MB.
    "--disable-dev-shm-usage",
]
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"
)
KEYS = {"Enter": 13, "Tab": 9, " ": 32}
PATIENCE = 300.0


class Tab:
    """A page in Chromium.

    Args:
        to: pipe that it reads commands from.
        of: pipe that it writes answers to.

    Attributes:
        complaints: what the page's console said, and what its policy forbade.
    """

    def __init__(self, to: int, of: int) -> None:
        self._to, self._of, self._rest, self._number = to, of, b"", 0
        self._session: str | None = None
        self._loaded: set[str] = set()
        self.complaints: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        found = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = found["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.send(f"{domain}.enable")
        self.send("Page.setLifecycleEventsEnabled", enabled=True)

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command of the protocol and its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            told = self._message()
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                return told["result"]
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        """What Chromium tells unasked."""
        if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(told["params"]))
        if told.get("method") == "Page.lifecycleEvent" and told["params"]["name"] == "load":
            self._loaded.add(told["params"]["loaderId"])

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._of, 1 << 16)
            assert more, "Chromium ended"
            self._rest += more
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def value(self, script: str) -> Any:
        """What JavaScript gives."""
        told = self.send(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def wait(self, script: str) -> Any:
        """The first value of JavaScript that counts as true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if found := self.value(script):
                return found
            time.sleep(0.05)
        text = self.value("document.body.innerText")
        raise AssertionError(f"never true: {script}\n{text}\n{self.complaints}")

    def go(self, url: str) -> None:
        """Open a page, and see it loaded; nothing can be asked of one that is on its way."""
        loader = self.send("Page.navigate", url=url)["loaderId"]
        while loader not in self._loaded:
            self._note(self._message())

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """As on a screen of this size, in light or dark."""
        mobile = {"mobile": False, "deviceScaleFactor": 1}
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, **mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def choose(self, selector: str, file: Path) -> None:
        """A file in the dialog of a file input."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(file)])

    def click(self, selector: str) -> None:
        """Press the mouse in the middle of an element."""
        find = f"document.querySelector({json.dumps(selector)})"
        x, y = self.value(
            f"(() => {{ const e = {find}; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            place = {"x": x, "y": y, "button": "left", "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, **place)

    def key(self, name: str) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", " ": " "}.get(name)
        fields = {"key": name, "code": "Space" if name == " " else name}
        fields["windowsVirtualKeyCode"] = KEYS[name]
        down = fields | ({"text": text} if text else {})
        self.send("Input.dispatchKeyEvent", type="keyDown", **down)
        self.send("Input.dispatchKeyEvent", type="keyUp", **fields)

    def type(self, text: str) -> None:
        """Text where the focus is."""
        self.send("Input.insertText", text=text)


@contextmanager
def open_tab(profile: Path) -> Iterator[Tab]:
    """A tab of a Chromium of its own, which ends with it."""
    of_test, to_chromium = os.pipe()
    of_chromium, to_test = os.pipe()

    def as_three_and_four() -> None:
        # Above them first: one of the pipes may have these numbers already.
        for number, pipe in ((103, of_test), (104, to_test)):
            os.dup2(pipe, number)
        os.dup2(103, 3)
        os.dup2(104, 4)

    command = [str(CHROMIUM), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    process = subprocess.Popen(
        command, preexec_fn=as_three_and_four, pass_fds=(3, 4), stderr=subprocess.DEVNULL
    )
    os.close(of_test)
    os.close(to_test)
    try:
        yield Tab(to_chromium, of_chromium)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_chromium)
        os.close(of_chromium)
