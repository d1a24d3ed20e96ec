"""`launch/demo.py` as a command: how it starts, what it refuses, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.demo import run
from launch import demo
from tests.commands import Ended, call
from tests.demo_server import PATIENCE, write_pictures, write_weights
from tests.ranks import ROOT

pytestmark = pytest.mark.xdist_group("demo")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    write_weights(folder)
    write_pictures(folder / "set", 3)
    (folder / "bad").mkdir()
    (folder / "bad" / "page.png").write_text("<html>")
    return folder


def ended_by(number: int, monkeypatch: pytest.MonkeyPatch, *words: object) -> tuple[Ended, bytes]:
    """The command, sent a signal after its page was read."""
    serve, pages = run._serve, []

    def served(server: run.DemoServer, say: Callable[[str], None]) -> None:
        def visit(line: str) -> None:
            say(line)
            if url := re.search(r"http://\S+", line):
                visitor = threading.Thread(target=read, args=(url[0],))
                visitor.start()

        def read(url: str) -> None:
            try:
                pages.append(urllib.request.urlopen(url, timeout=PATIENCE).read())
            finally:
                os.kill(os.getpid(), number)

        serve(server, visit)

    monkeypatch.setattr(run, "_serve", served)
    return call(demo.main, *words), pages[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_ends_it(
    world: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    words = ("--model", world / "both", "--port", 0, "--device", "cpu", "--folder", world / "set")
    ended, page = ended_by(number, monkeypatch, *words)
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(
        r"demo: http://127\.0\.0\.1:[1-9]\d*/ \(Ctrl-C ends it\)\ndemo: ended\n", ended.out
    )
    assert b"3 pictures" in page


def test_open_to_the_network_warns(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("--model", world / "both", "--port", 0, "--device", "cpu", "--samples", 0)
    words += ("--host", "0.0.0.0", "--open_to_network", "true")
    ended, page = ended_by(signal.SIGTERM, monkeypatch, *words)
    assert ended.code == 0
    assert page
    assert ended.err.startswith("warning: 0.0.0.0 is not this machine alone: ")
    assert ended.err.count("\n") == 1


MISTAKES = [
    ("", "no model: set --model"),
    ("--model []", "no model: set --model"),
    ("--model missing.pth", "missing.pth: no such file or folder"),
    ("--model WORLD/both --folder WORLD/missing", "folder WORLD/missing: no usable picture"),
    ("--model WORLD/both --folder WORLD/bad", "no usable picture: 1 skipped (1 wrong_format)"),
    ("--model WORLD/captioner --folder WORLD/set", "none of the models can search"),
    ("--model WORLD/both --attention_layer 2", "layer is 2: must be 0 to 1"),
    ("--model WORLD/both --vocabulary missing.txt", "vocabulary missing.txt: no such file"),
    ("--model a --host 0.0.0.0", "host 0.0.0.0: other machines could use the demo"),
    ("--model a --host example.org", "host example.org: no IP address"),
    ("--model a --host 203.0.113.7 --open_to_network true", "choose another"),
    ("--model a --port 70000", "port is 70000: must be at least 0 and at most 65535"),
    ("--model a --foldr x", "did you mean 'folder'?"),
    ("--model a --receive_seconds 0", "receive_seconds is 0.0: must be above 0"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line(world: Path, words: str, message: str) -> None:
    given = words.replace("WORLD", str(world)).split()
    free = () if "--port" in words else ("--port", "0")
    ended = call(demo.main, *given, *free)
    assert ended.code == 2
    assert ended.out == ""
    (line,) = [one for one in ended.err.splitlines() if not one.startswith("skipped ")]
    assert line.startswith("error: ")
    assert message.replace("WORLD", str(world)) in line


def test_a_port_in_use_is_one_line(world: Path) -> None:
    """Found before any model is opened."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = call(demo.main, "--model", "missing.pth", "--port", port)
    assert ended.code == 2
    message = f"port {port} of 127.0.0.1: address already in use; choose another with --port"
    assert message in ended.err
    assert ended.err.count("\n") == 1


@pytest.mark.slow
def test_a_process_ends_cleanly_in_the_middle_of_its_work(world: Path) -> None:
    """Ctrl-C while a connection is open and a request is half sent."""
    command = [sys.executable, "launch/demo.py", "--model", str(world / "both"), "--port", "0"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        port = int(re.search(r":(\d+)/", process.stdout.readline())[1])
        with socket.create_connection(("127.0.0.1", port)) as idle:
            idle.sendall(b"POST /captions HTTP/1.1\r\n")
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "demo: ended\n", "")


def test_help_shows_examples() -> None:
    ended = call(demo.main, "--help")
    assert ended.code == 0
    assert "python launch/demo.py --model runs/quickstart/pretrain --folder" in ended.out
    assert "open_to_network" in ended.out
