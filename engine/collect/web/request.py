"""One request to one server, and its answer within bounds: bytes, time, header, encoding.

The answer is parsed by the standard library, from a stream that ends at a moment and after so many
bytes, whatever the server does. No cookies, no credentials, no proxy of the environment, no
connection that is used twice, and no name or type that the server gives decides anything.
"""

import http.client
import io
import re
import socket
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime

from engine.collect.web.address import Connector, left
from engine.collect.web.refusal import Refused
from engine.collect.web.url import Url

MAX_HEADER = 1 << 16
CHUNK = 1 << 16
REDIRECTS = (301, 302, 303, 307, 308)
RAW = re.compile(r"[\x80-\xff]")
# Too early, too many, and what servers say when they are unwell.
PASSING = (408, 425, 429, 500, 502, 503, 504)
# zlib's window for gzip and zlib heads alike.
AUTOMATIC = zlib.MAX_WBITS | 32


@dataclass(frozen=True)
class Answer:
    """What a server said.

    Attributes:
        status: number.
        headers: of the answer.
        body: of a 200, decoded; of everything else empty.
    """

    status: int
    headers: Message
    body: bytes

    @property
    def location(self) -> str | None:
        """Where a redirect leads to, as it stands there; None where it is none."""
        place = self.headers.get("Location") if self.status in REDIRECTS else None
        # Raw bytes, which were read as Latin-1, mean themselves.
        return place and RAW.sub(lambda byte: f"%{ord(byte[0]):02X}", place)


class Metered(io.RawIOBase):
    """A socket's bytes, until a moment and so many of them.

    Args:
        source: to read from.
        deadline: by `time.monotonic`.
        budget: bytes.
        reason: what reading more is refused as.
    """

    def __init__(self, source: socket.socket, deadline: float, budget: int, reason: str) -> None:
        super().__init__()
        self._source, self._deadline = source, deadline
        self.budget, self.reason = budget, reason

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        # A timeout of the socket is one of silence; a byte a second never meets it.
        self._source.settimeout(left(self._deadline))
        count = self._source.recv_into(buffer, min(len(buffer), self.budget + 1))
        self.budget -= count
        if self.budget < 0:
            raise Refused(self.reason)
        return count

    def makefile(self, *_: object) -> io.BufferedReader:
        """What `http.client` reads from."""
        return io.BufferedReader(self)


def ask(connector: Connector, url: Url, agent: str, max_bytes: int, deadline: float) -> Answer:
    """GET a URL, once.

    Args:
        connector: opens the connection.
        url: of the picture.
        agent: what we call ourselves.
        max_bytes: largest body, as it comes and after decoding.
        deadline: by `time.monotonic`; all of it ends then.

    Raises:
        Refused: what `Connector.open` says; `reset`, `bad_answer`, `header_too_large`,
            `too_large`, `cut_short`, `encoding`.
    """
    lines = [
        f"GET {url.path} HTTP/1.1",
        f"Host: {url.authority}",
        f"User-Agent: {agent}",
        "Accept: image/jpeg, image/png, image/webp",
        "Accept-Encoding: identity",
        "Connection: close",
    ]
    with connector.open(url, deadline) as connection:
        try:
            connection.settimeout(left(deadline))
            connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii"))
            return _answer(Metered(connection, deadline, MAX_HEADER, "header_too_large"), max_bytes)
        except TimeoutError:
            raise Refused("timeout") from None
        except OSError:
            raise Refused("reset", passing=True) from None


def retry_after(headers: Message, now: datetime | None = None) -> float | None:
    """Seconds of `Retry-After`, which is a number or a date; None where there is none."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        seconds = (moment.astimezone(UTC) - (now or datetime.now(UTC))).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(seconds, 0.0)


def _answer(stream: Metered, max_bytes: int) -> Answer:
    response = http.client.HTTPResponse(stream, method="GET")  # type: ignore[arg-type]
    try:
        response.begin()
        headers = response.headers
        if headers.defects:
            # Python's parser ends at the first line that is no header, and rules may stand behind.
            raise Refused("bad_answer", status=response.status)
        if response.status != 200:
            return Answer(response.status, headers, b"")
        length = _length(headers)
        if length is not None and length > max_bytes:
            raise Refused("too_large", status=200)
        # Room for what chunks cost: sent a byte at a time, a body is refused early.
        stream.budget, stream.reason = max_bytes + max_bytes // 4 + CHUNK, "too_large"
        body = _body(response, max_bytes, length)
        return Answer(200, headers, _decoded(headers, body, max_bytes))
    except http.client.IncompleteRead:
        raise Refused("cut_short", passing=True) from None
    except http.client.LineTooLong:
        raise Refused("header_too_large") from None
    except (http.client.HTTPException, ValueError, RecursionError):
        raise Refused("bad_answer") from None
    finally:
        response.close()


def _length(headers: Message) -> int | None:
    """What is promised; two promises, and what is no number, are no answer (RFC 9112, 6.3)."""
    stated = {text.strip() for text in headers.get_all("Content-Length") or []}
    if headers.get("Transfer-Encoding") is not None:
        if stated or headers["Transfer-Encoding"].strip().lower() != "chunked":
            raise Refused("bad_answer", status=200)
        return None
    if not stated:
        return None
    (text,) = stated if len(stated) == 1 else ("",)
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Refused("bad_answer", status=200)
    return int(text)


def _body(response: http.client.HTTPResponse, max_bytes: int, length: int | None) -> bytes:
    body = bytearray()
    while part := response.read(CHUNK):
        body += part
        if len(body) > max_bytes:
            raise Refused("too_large", status=200)
    if length is not None and len(body) < length:
        raise Refused("cut_short", passing=True, status=200)
    return bytes(body)


def _decoded(headers: Message, body: bytes, max_bytes: int) -> bytes:
    """Nothing was asked for but the bytes themselves; some servers compress all the same."""
    encoding = (headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding in ("identity", ""):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise Refused("encoding", status=200)
    inflated = zlib.decompressobj(AUTOMATIC)
    try:
        content = inflated.decompress(body, max_bytes + 1)
    except zlib.error:
        raise Refused("encoding", status=200) from None
    if len(content) > max_bytes:
        raise Refused("too_large", status=200)
    if not inflated.eof:
        raise Refused("cut_short", passing=True, status=200)
    return content
