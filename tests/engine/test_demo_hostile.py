"""The demo over HTTP, and how it takes what no page would send."""

import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from PIL import Image

from engine.demo.access import Access, Refused
from engine.demo.config import DemoConfig
from engine.demo.run import opened
from engine.demo.server import CONNECTIONS, DemoServer
from tests.demo_server import PATIENCE, Client, serving, write_pictures, write_weights
from tests.shards import bomb, picture

pytestmark = pytest.mark.xdist_group("demo")

LIMIT = 200_000
WAITING = 8


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, a folder, and a picture beside it."""
    folder = tmp_path_factory.mktemp("demo")
    write_weights(folder)
    write_pictures(folder / "set", 20)
    (folder / "secret.png").write_bytes(picture(3))
    return folder


@pytest.fixture(scope="module")
def client(world: Path) -> Iterator[Client]:
    config = DemoConfig(
        model=[str(world / "both"), str(world / "vqa")],
        folder=str(world / "set"),
        port=0,
        device="cpu",
        max_upload_bytes=LIMIT,
        waiting=WAITING,
        # Nobody is late but in the test that says so.
        receive_seconds=PATIENCE,
    )
    with serving(opened(config)) as client:
        yield client


def noise() -> bytes:
    """A JPEG that loses pixels when it is cut."""
    out = io.BytesIO()
    Image.effect_noise((64, 64), 80).convert("RGB").save(out, "JPEG")
    return out.getvalue()


JPEG = noise()
BAD = {
    "empty": (b"", "the picture is empty"),
    "text": (b"no picture at all", "no JPEG, PNG or WebP"),
    "page": (b"<!doctype html><script>alert(1)</script>", "no JPEG, PNG or WebP"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', "no JPEG, PNG"),
    "gif": (b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff;", "no JPEG, PNG"),
    "bomb": (bomb(20_000, 20_000), "too many pixels"),
    "large bomb": (bomb(60_000, 60_000), "too many pixels"),
    "torn": (JPEG[: len(JPEG) // 2], "cut off"),
    "head alone": (b"\x89PNG\r\n\x1a\n", "damaged"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_picture_is_one_line(client: Client, kind: str) -> None:
    content, message = BAD[kind]
    headers = {"Content-Type": "image/png"}
    for path in ("/captions", "/match?text=a", "/answer?text=a"):
        answer = client.ask("POST", path, content, headers)
        assert answer.status == 400
        assert message in answer.error
    assert client.post("/match?text=a", picture(1)).status == 200


def test_a_large_picture_is_refused_before_it_is_read(client: Client) -> None:
    """The answer comes while all of it is still to be sent; and to a sender who sends it all."""
    announced = {"Content-Length": str(LIMIT + 1)}
    assert client.ask("POST", "/captions", b"", announced).status == 413
    assert client.ask("POST", "/captions", b"", {"Content-Length": "9" * 400}).status == 413
    answer = client.post("/captions", bytes(LIMIT * 20))
    assert answer.status == 413
    assert answer.error == "the picture is larger than 0.2 MB"


@pytest.mark.parametrize("length", [None, "", "-1", "+5", "1e3", "0x10", "five", "²", " "])
def test_a_body_tells_its_length(client: Client, length: str | None) -> None:
    told = length.encode("latin-1") if length else length
    assert client.ask("POST", "/captions", b"", {"Content-Length": told}).status == 411
    chunked = {"Transfer-Encoding": "chunked"}
    assert client.ask("POST", "/captions", b"0\r\n\r\n", chunked).status == 411


@pytest.mark.parametrize("number", ["", "-1", "20", "1e1", "²", "0/../../secret.png", "9" * 99])
def test_no_path_of_a_client_is_opened(client: Client, world: Path, number: str) -> None:
    assert client.post(f"/picture?number={quote(number)}").status == 404
    assert client.post(f"/picture?number={quote(str(world / 'secret.png'))}").status == 404
    for path in ("/../secret.png", "/%2e%2e/secret.png", f"//{world}/secret.png", "/page.py"):
        for method in ("GET", "POST"):
            assert client.ask(method, path).status == 404
    assert client.ask("GET", "http://[").status == 400


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "10.0.0.1", "[::2]", "0"],
)
def test_another_name_for_this_machine_is_refused(client: Client, host: str) -> None:
    for told in (f"{host}:{client.port}", host, None, "", f"127.0.0.1:{client.port + 1}"):
        for method, path in (("GET", "/"), ("POST", "/search?text=a")):
            headers = {"Host": told, "Origin": f"http://{told}"}
            answer = client.ask(method, path, headers=headers)
            assert answer.status == 421
            assert client.server.access.token not in answer.content.decode()
    for ours in ("localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]"):
        assert client.ask("GET", "/", headers={"Host": f"{ours}:{client.port}"}).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Demo-Token": None},
        {"X-Demo-Token": ""},
        {"X-Demo-Token": "é" * 43},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": ""},
    ],
)
def test_what_the_page_did_not_send_is_refused(client: Client, headers: dict) -> None:
    headers = {k: v.encode("latin-1") if v else v for k, v in headers.items()}
    for path in ("/captions", "/match?text=a", "/search?text=a", "/picture?number=0", "/"):
        assert client.ask("POST", path, picture(1), headers).status == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "<script>"])
def test_other_methods_are_refused(client: Client, method: str) -> None:
    answer = client.ask(method, "/")
    assert answer.status == 501
    assert b"<" not in answer.content


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/other", 404)])
def test_whether_the_page_is_there(client: Client, path: str, status: int) -> None:
    length = len(client.ask("GET", path).content)
    request = f"HEAD {path} HTTP/1.0\r\nHost: 127.0.0.1:{client.port}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", client.port), timeout=PATIENCE) as asking:
        asking.sendall(request.encode())
        with asking.makefile("rb") as answer:
            headers, _, content = answer.read().partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.0 %d " % status)
    assert b"Content-Length: %d" % length in headers
    assert content == b""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no words"),
        (" .!\u200b", "it has no words"),
        ("a" * 1001, "longer than 1000 characters"),
    ],
    ids=["nothing", "marks", "long"],
)
def test_an_unusable_text_is_one_line(client: Client, text: str, message: str) -> None:
    for path in ("/match", "/search", "/answer"):
        answer = client.post(f"{path}?text={quote(text)}", picture(1))
        assert answer.status == 400
        assert message in answer.error
    for nothing in ("%ff%fe%00", "%ef%bf%bd", "%ed%a0%80"):
        assert client.post(f"/match?text={nothing}", picture(1)).error.startswith("a text is not")
    assert client.post(f"/match?text=a{'&a=b' * 9}", picture(1)).status == 400


def test_one_at_a_time_and_so_many_wait(client: Client) -> None:
    """Of 30 at once, while one is in work: as many as may wait do, the others are told so."""
    answers: list = []

    def ask() -> None:
        answers.append(client.post("/match?text=a%20dog", picture(1)))

    threads = [threading.Thread(target=ask) for _ in range(30)]
    with client.server.turn.taken():
        for thread in threads:
            thread.start()
        end = time.monotonic() + PATIENCE
        while len(answers) < 30 - WAITING and time.monotonic() < end:
            time.sleep(0.01)
        assert {answer.status for answer in answers} == {503}
    for thread in threads:
        thread.join()
    assert Counter(answer.status for answer in answers) == {503: 30 - WAITING, 200: WAITING}
    (busy,) = {answer.error for answer in answers if answer.status == 503}
    assert "busy" in busy
    assert len({answer.content for answer in answers if answer.status == 200}) == 1


def test_a_full_house_lets_nobody_in_until_somebody_leaves(client: Client) -> None:
    address = ("127.0.0.1", client.port)
    idle = [socket.create_connection(address) for _ in range(CONNECTIONS)]
    try:
        with socket.create_connection(address, timeout=PATIENCE) as one:
            assert one.recv(100).startswith(b"HTTP/1.0 503 ")
    finally:
        for one in idle:
            one.close()
    end, status = time.monotonic() + PATIENCE, 503
    # Those that have left are noticed one by one.
    while status == 503 and time.monotonic() < end:
        with suppress(OSError):
            status = client.ask("GET", "/").status
    assert status == 200


def dripped(client: Client, sent: str, seconds: float) -> bytes:
    """What a server answers that waits so long for a request of which a byte comes at a time."""
    server = DemoServer(replace(client.server.config, receive_seconds=seconds))
    server.open(client.server.results, client.server.page)
    begun, got = time.monotonic(), None
    address = ("127.0.0.1", server.server_port)
    with socket.create_connection(address, timeout=PATIENCE) as slow, ExitStack() as stack:
        if sent == "body":
            # All of the header is there before the clock starts.
            lines = [f"{name}: {value}" for name, value in Client(server).own.items()]
            lines += [f"Host: 127.0.0.1:{server.server_port}", "Content-Length: 100000"]
            slow.sendall("\r\n".join(["POST /captions HTTP/1.1", *lines, "", ""]).encode())
        stack.enter_context(serving(server))
        slow.settimeout(0.05)
        while got is None:
            assert time.monotonic() - begun < seconds + PATIENCE
            try:
                got = slow.recv(1000)
            except TimeoutError:
                # What cannot be sent any more has an answer, which is read next.
                with suppress(ConnectionError):
                    slow.send(b"x" if sent != "nothing" else b"")
            except ConnectionError:
                got = b""
        assert time.monotonic() - begun > seconds
        slow.settimeout(PATIENCE)
        with suppress(ConnectionError):
            while got and (more := slow.recv(1000)):
                got += more
    return got


@pytest.mark.parametrize("sent", ["header", "body", "nothing"])
def test_slow_senders_are_left(client: Client, sent: str) -> None:
    """A byte at a time for ever ends when the time for a request is over."""
    got = dripped(client, sent, 0.5)
    if sent == "body":
        # Where the process slept that long between two lines, the header itself came late.
        got = got or dripped(client, sent, 20.0)
        assert got.startswith(b"HTTP/1.0 408 ")
        assert got.endswith(b'{"error": "the request took too long to arrive"}')
    else:
        assert not got or got.startswith(b"HTTP/1.0 408 ")


def test_a_bug_is_told_in_the_terminal_alone(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a secret of /home/somebody")

    server = DemoServer(client.server.config)
    kept = client.server.results
    broken = SimpleNamespace(captions=fail, match=kept.match)
    server.open(broken, client.server.page)
    with serving(server) as other:
        answer = other.post("/captions", picture(1))
        assert answer.status == 500
        assert answer.error == "the demo failed at this: its terminal says why"
        assert other.post("/match?text=a", picture(1)).status == 200
    assert "a secret of /home/somebody" in caplog.text


def test_open_to_the_network_any_address_will_do_but_no_name() -> None:
    access = Access("0.0.0.0", 80)
    for host in ("192.168.1.5", "192.168.1.5:80", "[fe80::1]:80", "localhost"):
        access.check_host({"Host": host})
    for host in ("evil.example", "192.168.1.5.evil.example:80", "192.168.1.5:81", "[::1", "1.2"):
        with pytest.raises(Refused):
            access.check_host({"Host": host})
