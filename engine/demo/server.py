"""The page and its requests over HTTP: one request a connection, each checked before it is read."""

import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from engine.config import ConfigError
from engine.demo.access import Access, Refused
from engine.demo.arrival import TimedReading, drain, has_left
from engine.demo.config import DemoConfig
from engine.demo.page import Page
from engine.demo.results import Results
from engine.demo.turn import Busy, Turn

log = logging.getLogger(__name__)

# Each may hold a picture in memory while it waits.
CONNECTIONS = 32
SEND_SECONDS = 20.0
BUSY = "the demo is busy with other requests: try again in a moment"
# To whom not even a thread can be given.
FULL = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n"
NO_REQUEST = "this is no proper request"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class DemoServer(ThreadingHTTPServer):
    """Bound when it is made; it answers from `open` on.

    Args:
        config: of the demo.

    Raises:
        ConfigError: the address cannot be had.
    """

    daemon_threads = True
    # Another server's port is not shared, whatever the platform's default.
    allow_reuse_port = False
    request_queue_size = 64

    def __init__(self, config: DemoConfig) -> None:
        self.config, self.turn = config, Turn(config.waiting)
        self._connections = threading.BoundedSemaphore(CONNECTIONS)
        if ":" in config.host:
            self.address_family = socket.AF_INET6
        address = (config.host, config.port)
        super().__init__(address, DemoHandler, bind_and_activate=False)
        try:
            self.server_bind()
        except OSError as error:
            self._refuse(error)
        self.access = Access(config.host, self.server_address[1])

    def server_bind(self) -> None:
        """Without a look-up of this machine's name, which can take minutes."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    def open(self, results: Results, page: Page) -> None:
        """Listen.

        Args:
            results: what is computed.
            page: what is shown.

        Raises:
            ConfigError: another program got the port meanwhile.
        """
        self.results, self.page = results, page
        try:
            self.server_activate()
        except OSError as error:
            self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        self.server_close()
        host, port = self.config.host, self.config.port
        raise ConfigError(
            f"port {port} of {host}: {(error.strerror or str(error)).lower()}; "
            "choose another with --port, or 0 for a free one"
        ) from None

    @property
    def url(self) -> str:
        """Of the page."""
        host = self.config.host
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, of which there are not more than so many."""
        if not self._connections.acquire(blocking=False):
            request.settimeout(0)
            with suppress(OSError):
                request.sendall(FULL)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """One request."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Senders that leave, or whose headers nest without end, are nobody's fault; anything else
        is told here alone."""
        if not isinstance(sys.exception(), OSError | RecursionError):
            log.exception("a connection failed")


class DemoHandler(BaseHTTPRequestHandler):
    """One request, answered with the page, JSON, or a picture."""

    server: DemoServer
    server_version, sys_version = "blip-demo", ""

    def setup(self) -> None:
        """The clock starts."""
        super().setup()
        self.rfile = BufferedReader(
            TimedReading(self.connection, self.server.config.receive_seconds)
        )

    def do_GET(self) -> None:
        """The page."""
        self._answer(self._get)

    def do_HEAD(self) -> None:
        """Whether the page is there, as what watches over servers asks."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """What the page asks for."""
        self._answer(self._post)

    def _get(self) -> None:
        self.server.access.check_host(self.headers)
        if self._target()[0] != "/":
            raise Refused(404, "there is nothing here")
        page = self.server.page
        self._send(
            200, "text/html; charset=utf-8", page.html, {"Content-Security-Policy": page.policy}
        )

    def _post(self) -> None:
        self.server.access.check_host(self.headers)
        self.server.access.check_page(self.headers)
        path, values = self._target()
        text, results = values.get("text", ""), self.server.results
        work: dict[str, Callable[[bytes], Any]] = {
            "/captions": lambda content: results.captions(content, values.get("prompt")),
            "/match": lambda content: results.match(content, text),
            "/answer": lambda content: results.answer(content, text),
            "/search": lambda _: results.search(text),
            "/picture": lambda _: results.picture(values.get("number", "")),
        }
        if path not in work:
            raise Refused(404, "there is nothing here")
        content = self._body()
        with self.server.turn.taken(lambda: has_left(self.connection)):
            made = work[path](content)
        if isinstance(made, bytes):
            self._send(200, "image/webp", made)
        else:
            self._send(200, "application/json", json.dumps(made, allow_nan=False).encode())

    def _target(self) -> tuple[str, dict[str, str]]:
        """The path, and the first value of each name in the query."""
        try:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=4)
        except ValueError:
            raise Refused(400, NO_REQUEST) from None
        return parts.path, {name: values[0] for name, values in query.items()}

    def _body(self) -> bytes:
        """What was sent, of a length that was told beforehand and is not too large.

        Raises:
            Refused: no length, too large a one, or it did not arrive in time.
            ConnectionError: the sender left.
        """
        told, limit = self.headers.get("Content-Length", ""), self.server.config.max_upload_bytes
        if "Transfer-Encoding" in self.headers or not (told.isascii() and told.isdigit()):
            raise Refused(411, "the request must tell its length")
        if len(told) > 15 or int(told) > limit:
            raise Refused(413, f"the picture is larger than {limit / 1e6:g} MB")
        try:
            content = self.rfile.read(int(told))
        except TimeoutError as late:
            raise Refused(408, str(late)) from None
        if len(content) < int(told):
            raise ConnectionError("the sender left")
        return content

    def _answer(self, work: Callable[[], None]) -> None:
        """Do the work; whatever goes wrong becomes one line, and never more than that."""
        try:
            work()
        except Refused as refused:
            self._refuse(refused.status, refused.message)
        except ConfigError as error:
            self._refuse(400, " ".join(str(error).split()))
        except Busy:
            self._refuse(503, BUSY, {"Retry-After": "2"})
        except (ConnectionError, TimeoutError):
            # Nobody is there who sends, or who takes the answer.
            self.close_connection = True
        except Exception:  # noqa: BLE001 - the client is told nothing of a bug but that it is one
            log.exception("a request failed")
            self._refuse(500, "the demo failed at this: its terminal says why")

    def _refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, "application/json", json.dumps({"error": message}).encode(), headers)
        drain(self.connection)

    def _send(
        self, status: int, kind: str, content: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.connection.settimeout(SEND_SECONDS)
        self.close_connection = True
        self.send_response(status)
        for name, value in (HEADERS | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library refuses by itself; nothing of the request is repeated."""
        self._refuse(code, NO_REQUEST)

    def log_message(self, format: str, *words: Any) -> None:
        """Nothing: a demo's terminal is read by people."""
