"""A demo that serves tiny models in a thread, and requests to it byte by byte."""

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from blip_model import Blip
from blip_model.vqa import BlipVqa
from engine.demo.access import TOKEN_HEADER
from engine.demo.server import DemoServer
from tests.shards import picture
from tests.tiny import spread, tiny_config, write_model

PATIENCE = 300.0


def write_weights(folder: Path) -> None:
    """`both` captions and matches, `vqa` answers, `captioner` captions alone."""
    torch.manual_seed(0)
    config = tiny_config(text_layers=3)
    kinds = {
        "both": Blip(config),
        "vqa": BlipVqa(config),
        "captioner": Blip(config, text_encoder=False),
    }
    for name, model in kinds.items():
        spread(model)
        write_model(folder / name, model)


def write_pictures(folder: Path, count: int) -> list[Path]:
    """Drawn pictures in a folder, in order."""
    folder.mkdir(parents=True)
    paths = [folder / f"{number:02d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(picture(number))
    return paths


@contextmanager
def serving(server: DemoServer) -> Iterator["Client"]:
    """A server that answers meanwhile."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield Client(server)
    finally:
        server.shutdown()
        thread.join()
        server.turn.end(PATIENCE)
        server.server_close()


class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: by name.
        content: of the body.
    """

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.content = answer.status, answer.headers, answer.read()

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.content)

    @property
    def error(self) -> str:
        """The one line of a refusal, of which nothing else is told."""
        assert self.status >= 400
        assert list(self.json) == ["error"]
        line = self.json["error"]
        assert "\n" not in line
        assert "Traceback" not in line
        return line


class Client:
    """Requests as the page sends them, unless they are told otherwise.

    Args:
        server: to ask.
    """

    def __init__(self, server: DemoServer) -> None:
        self.server, self.port = server, server.server_port
        self.own = {TOKEN_HEADER: server.access.token, "Origin": f"http://127.0.0.1:{self.port}"}

    def ask(
        self, method: str, path: str, content: bytes = b"", headers: dict[str, Any] | None = None
    ) -> Answer:
        """One request; a header that is None is left out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        sent = {"Host": f"127.0.0.1:{self.port}", "Content-Length": str(len(content)), **self.own}
        sent |= headers or {}
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value is not None:
                    connection.putheader(name, value)
            connection.endheaders()
            connection.send(content)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def post(self, path: str, content: bytes = b"", **headers: Any) -> Answer:
        """A request of the page."""
        return self.ask("POST", path, content, headers)
