"""From a host's name to one checked address, and a connection to exactly that one.

The name is resolved once for each request. Every address of the answer must be public, and the
connection is made to one of them by number: what the name means a moment later changes nothing.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

from engine.collect.web.refusal import Refused
from engine.collect.web.url import WEB_PORTS, Url
from engine.remote.addresses import is_loopback, is_public

Resolve = Callable[[str, int], list[str]]
# Of an answer's addresses so many are tried.
ADDRESSES = 3
# Python's resolver cannot be told to stop: a name server that never answers holds one of these.
LOOKUPS = 64


def system_resolve(host: str, port: int) -> list[str]:
    """Numeric addresses of a host, as the machine's resolver gives them.

    Raises:
        OSError: none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Connector:
    """Opens connections.

    Args:
        resolve: gives the addresses of a host.
        allow_loopback: also to this machine itself, at any port.
    """

    def __init__(self, resolve: Resolve = system_resolve, allow_loopback: bool = False) -> None:
        self.resolve, self.allow_loopback = resolve, allow_loopback
        self._lookups = threading.BoundedSemaphore(LOOKUPS)
        self._trust = ssl.create_default_context()

    @contextlib.contextmanager
    def open(self, url: Url, deadline: float) -> Iterator[socket.socket]:
        """A connection to the server of a URL; with https its name is verified.

        Args:
            url: which server.
            deadline: by `time.monotonic`.

        Raises:
            Refused: `dns`, `private_address`, `port`, `connect`, `tls`, or `timeout`.
        """
        found = self._connect(self.vetted(url, deadline), url.port, deadline)
        try:
            if url.scheme == "https":
                found = self._secured(found, url, deadline)
            yield found
        finally:
            found.close()

    def vetted(self, url: Url, deadline: float) -> list[str]:
        """Addresses of a server, all of them checked.

        Raises:
            Refused: `dns`, `private_address` where one of them is not public, `port` for one that
                serves no pages, or `timeout`.
        """
        found = self._resolved(url, deadline)
        for address in found:
            if self.allow_loopback and is_loopback(address):
                continue
            if not is_public(address):
                raise Refused("private_address")
            if url.port not in WEB_PORTS:
                raise Refused("port")
        return found

    def _resolved(self, url: Url, deadline: float) -> list[str]:
        answer: list[list[str] | OSError] = []

        def ask() -> None:
            try:
                answer.append(self.resolve(url.host, url.port))
            except (OSError, UnicodeError) as error:
                answer.append(error if isinstance(error, OSError) else OSError(str(error)))
            finally:
                self._lookups.release()

        if not self._lookups.acquire(timeout=left(deadline)):
            # Others' name servers are slow: nothing is said about this one.
            raise Refused("timeout", passing=True)
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(left(deadline))
        if not answer:
            raise Refused("timeout")
        if isinstance(answer[0], OSError):
            passing = getattr(answer[0], "errno", None) == socket.EAI_AGAIN
            raise Refused("dns", passing=passing)
        if not answer[0]:
            raise Refused("dns")
        return answer[0]

    def _connect(self, addresses: list[str], port: int, deadline: float) -> socket.socket:
        for address in addresses[:ADDRESSES]:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                plain = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                # A machine may have no IPv6.
                continue
            try:
                plain.settimeout(left(deadline))
                plain.connect((address, port))
            except TimeoutError:
                plain.close()
                raise Refused("timeout") from None
            except OSError:
                plain.close()
                continue
            except BaseException:
                plain.close()
                raise
            return plain
        raise Refused("connect", passing=True)

    def _secured(self, plain: socket.socket, url: Url, deadline: float) -> ssl.SSLSocket:
        try:
            # Python holds a timeout over the whole handshake.
            plain.settimeout(left(deadline))
            return self._trust.wrap_socket(plain, server_hostname=url.host)
        except TimeoutError:
            raise Refused("timeout") from None
        except (OSError, ValueError):
            raise Refused("tls") from None


def left(deadline: float) -> float:
    """Seconds that are left.

    Raises:
        Refused: `timeout` when none are.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise Refused("timeout")
    return seconds
