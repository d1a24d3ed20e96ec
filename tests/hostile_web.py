"""A web server on this machine that answers as it is told, and counts."""

import contextlib
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.hostile_answers import ENDPOINTS, ROBOTS, Request, answer, pattern, status


class Hostile:
    """The server.

    Attributes:
        port: on this machine.
        asked: how often each path was, with the host before it.
        most: requests at once, before they are answered.
        on_request: called with each, before it is answered.
    """

    def __init__(self, tls: Path | None = None) -> None:
        self._tls = None
        if tls is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(tls)
        self.asked: Counter[str] = Counter()
        self.most = self.open = 0
        self.on_request: Callable[[Request], None] = lambda request: None
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more connections; those that are open end."""
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            head = b""
            # A client that wants to speak TLS says so first, and is answered in clear.
            while not head.startswith(b"\x16") and b"\r\n\r\n" not in head:
                if not (part := connection.recv(4096)):
                    break
                head += part
            if head.startswith(b"\x16"):
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            elif head:
                self._answer(connection, head)

    def _answer(self, connection: socket.socket, head: bytes) -> None:
        request = Request(head, 0)
        with self._lock:
            name = f"{request.host.partition(':')[0]}{request.path}"
            self.asked[name] += 1
            request.visit = self.asked[name]
            self.open += 1
            self.most = max(self.most, self.open)
        self.on_request(request)
        with self._lock:
            self.open -= 1
        if request.path.startswith("/p/"):
            send = answer(pattern(int(request.path[3:])))
        elif request.path == "/robots.txt":
            send = ROBOTS.get(request.host.partition(":")[0], status(404))
        else:
            send = ENDPOINTS.get(request.path.partition("?")[0], status(404))
        send(connection, request)


@contextlib.contextmanager
def hostile_server(tls: Path | None = None) -> Iterator[Hostile]:
    """A server on this machine, behind a certificate and its key if there are any."""
    server = Hostile(tls)
    try:
        yield server
    finally:
        server.close()
