"""Files from http(s) servers, whose addresses are looked at before a word is sent to them.

What counts is the address that a connection ended at, so a name that resolves otherwise a second
time changes nothing.
"""

import http.client
import socket
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

from engine.remote.addresses import is_public

CHUNK = 1 << 20
# Bytes of a file whose size no server has said.
MOST = 1 << 36
ABSENT = (403, 404, 410)
# Worth another try: too early, too many, and what servers say when they are unwell.
PASSING = (408, 425, 429)
# To be told of a file may be forbidden, or unknown, where to be given it is not.
NO_HEAD = (403, 405)


class AddressError(Exception):
    """A server that must not be asked."""


class Web:
    """Reading from web servers.

    Args:
        allow_private: also from loopback, private and link-local addresses, and through a proxy
            that the environment names.
        timeout: seconds of silence after which a server is given up.
    """

    def __init__(self, allow_private: bool, timeout: float) -> None:
        self.timeout = timeout
        opener = urllib.request.OpenerDirector()
        handlers = [
            _handler(urllib.request.HTTPHandler, "http", http.client.HTTPConnection, allow_private),
            _handler(
                urllib.request.HTTPSHandler, "https", http.client.HTTPSConnection, allow_private
            ),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
            _Redirects(),
        ]
        if allow_private:
            handlers.append(urllib.request.ProxyHandler())
        for handler in handlers:
            opener.add_handler(handler)
        self._opener = opener

    def size(self, url: str) -> int | None:
        """Bytes of a file, None where the server does not tell.

        Raises:
            FileNotFoundError: not there, or nothing that it shows.
            AddressError: a server that must not be asked.
            OSError: the server or the network failed.
        """
        try:
            response = self._open(url, "HEAD")
        except _NoHeadError:
            # A signature may be of GET alone; what comes is told first, and not read.
            response = self._open(url, "GET")
        with response:
            length = response.headers.get("Content-Length")
            return int(length) if length and length.isdecimal() else None

    def fetch(self, url: str, target: Path, most: int | None = None) -> None:
        """Copy a file of at most `most` bytes to the disk; raises as `size` does."""
        found, most = 0, MOST if most is None else most
        with self._open(url, "GET") as response, target.open("wb") as file:
            while part := response.read(CHUNK):
                found += len(part)
                if found > most:
                    raise OSError(f"more than {most} bytes arrived")
                file.write(part)
            if response.length:
                raise OSError(f"{response.length} bytes are missing")

    def _open(self, url: str, method: str) -> http.client.HTTPResponse:
        # Compressed on the way, a file would not have the size that the server states.
        headers = {"Accept-Encoding": "identity", "User-Agent": "blip-engine"}
        request = urllib.request.Request(url, method=method, headers=headers)
        try:
            response = self._opener.open(request, timeout=self.timeout)
        except HTTPError as error:
            error.close()
            if method == "HEAD" and error.code in NO_HEAD:
                raise _NoHeadError(f"the server says {error.code} {error.reason}") from None
            if error.code in ABSENT:
                raise FileNotFoundError(2, f"the server says {error.code}", url) from None
            if error.code < 500 and error.code not in PASSING:
                raise AddressError(f"the server says {error.code} {error.reason}") from None
            raise OSError(f"the server says {error.code} {error.reason}") from None
        except http.client.HTTPException as error:
            raise OSError(f"{type(error).__name__} {error}".strip()) from None
        if response is None:
            raise AddressError("the server sends us on to something that is not http(s)")
        return response


class _NoHeadError(AddressError):
    """A server that may give what it does not tell of."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http(s) only, by the same vetted connections."""

    max_redirections = 5


def _handler(
    base: type[urllib.request.AbstractHTTPHandler],
    scheme: str,
    connection: type[http.client.HTTPConnection],
    allow_private: bool,
) -> urllib.request.AbstractHTTPHandler:
    """urllib's handler of a scheme, over connections that look where they ended."""

    class Vetted(connection):
        def connect(self) -> None:
            plain = socket.create_connection

            def connected(*given: object) -> socket.socket:
                found = plain(*given)
                if not allow_private:
                    _vet(found)
                return found

            self._create_connection = connected
            super().connect()

    class Handler(base):
        def _vetted(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Vetted, request)

    setattr(Handler, f"{scheme}_open", Handler._vetted)
    return Handler()


def _vet(connection: socket.socket) -> None:
    """Close a connection that ended inside.

    Raises:
        AddressError: it did.
    """
    address = connection.getpeername()[0]
    if not is_public(address):
        connection.close()
        raise AddressError(
            f"its server is at {address}, which is no public address; set remote.allow_private if "
            "it is meant"
        )
