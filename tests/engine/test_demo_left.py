"""Requests whose senders have left: nothing is computed for them, and they hold no place."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from engine.demo.arrival import has_left
from engine.demo.config import DemoConfig
from engine.demo.run import opened
from engine.demo.server import CONNECTIONS
from engine.demo.turn import Busy, Turn
from tests.demo_server import PATIENCE, Client, serving, write_weights
from tests.shards import picture

pytestmark = pytest.mark.xdist_group("demo")
WAITING = 3


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("left")
    write_weights(folder)
    config = DemoConfig(model=str(folder / "both"), port=0, device="cpu", waiting=WAITING)
    with serving(opened(config)) as client:
        yield client


def test_whoever_has_left_is_told_from_whoever_waits() -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(7.0)
    assert not has_left(ours)
    theirs.sendall(b"more than was asked for")
    assert not has_left(ours) and ours.gettimeout() == 7.0
    assert ours.recv(4) == b"more"
    ours.recv(100)
    theirs.close()
    assert has_left(ours)
    ours.close()


def test_a_place_is_free_once_nobody_waits_at_it() -> None:
    turn, left, ended = Turn(1), threading.Event(), []

    def wait() -> None:
        with pytest.raises(ConnectionError), turn.taken(left.is_set):
            ended.append("computed")

    waiting = threading.Thread(target=wait)
    with turn.taken():
        waiting.start()
        while turn._places._value:
            time.sleep(0.01)
        with pytest.raises(Busy), turn.taken():
            pass
        left.set()
        waiting.join()
        # It would be Busy if the place were still taken.
        wait()
    with turn.taken():
        assert not ended


def test_nothing_is_computed_for_whoever_has_left(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as may wait come while one is in work, and go; who comes then has a place."""
    asked: list[str] = []
    match = client.server.results.match

    def noted(content: bytes, text: str) -> object:
        asked.append(text)
        return match(content, text)

    monkeypatch.setattr(client.server.results, "match", noted)
    words = {"Host": f"127.0.0.1:{client.port}", **client.own, "Content-Length": len(picture(1))}
    lines = ["POST /match?text=left HTTP/1.1", *(f"{name}: {word}" for name, word in words.items())]
    request = "\r\n".join([*lines, "", ""]).encode() + picture(1)
    answers = []

    def stay() -> None:
        answers.append(client.post("/match?text=stayed", picture(1)).status)

    stays = threading.Thread(target=stay)
    with client.server.turn.taken():
        visitors = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(WAITING)]
        for visitor in visitors:
            visitor.sendall(request)
        wait_for(client, WAITING)
        assert client.post("/match?text=many", picture(1)).status == 503
        for visitor in visitors:
            visitor.close()
        wait_for(client, 0)
        stays.start()
    stays.join()
    assert (answers, asked) == ([200], ["stayed"])


def wait_for(client: Client, count: int) -> None:
    """Until so many connections are open, and all of them wait for their turn."""
    end = time.monotonic() + PATIENCE
    server = client.server
    while (CONNECTIONS - server._connections._value, WAITING - server.turn._places._value) != (
        count,
        count,
    ):
        assert time.monotonic() < end, "a connection waits for nothing"
        time.sleep(0.02)
