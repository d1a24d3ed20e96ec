"""A URL of a list or of a redirect: taken apart, and refused where a server should not see it."""

import re
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from engine.collect.web.refusal import Refused

PORTS = {"http": 80, "https": 443}
# Where pictures are served; others are mail, databases and the like, which a list must not poke.
WEB_PORTS = (80, 443, 8000, 8080, 8443)
LONGEST = 4096
LONGEST_HOST = 253
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
HOST = re.compile(r"[a-z0-9_.:-]+")
# RFC 3986: what stands in a path as it is; % too, of what is escaped already.
PLAIN = "/%:@!$&'()*+,;=~-._"


@dataclass(frozen=True)
class Url:
    """Where a picture is.

    Attributes:
        scheme: http or https.
        host: lower case, ASCII; an IPv6 address without brackets.
        port: number.
        path: with the query; ASCII, escaped.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """`scheme://host:port`, the port where it is not the scheme's."""
        return f"{self.scheme}://{self.authority}"

    @property
    def authority(self) -> str:
        """`host:port` as the server is told it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return self.origin + self.path

    def joined(self, location: str) -> "Url":
        """Where a redirect leads to.

        Raises:
            Refused: as `parse_url` does.
        """
        try:
            return parse_url(urljoin(str(self), location.strip()))
        except ValueError:
            raise Refused("bad_url") from None


def parse_url(text: str) -> Url:
    """Take a URL apart.

    Raises:
        Refused: `scheme` that is not http(s); `bad_url` for what is none: too long, without a host,
            with a name and a password, with control characters, or with an impossible port.
    """
    text = text.strip()
    if len(text) > LONGEST or CONTROL.search(text):
        raise Refused("bad_url")
    try:
        parts = urlsplit(text)
        port, host = parts.port, (parts.hostname or "").rstrip(".")
    except ValueError:
        raise Refused("bad_url") from None
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise Refused("scheme" if scheme else "bad_url")
    if "@" in parts.netloc or not host or len(host) > LONGEST_HOST or port == 0:
        raise Refused("bad_url")
    path = quote(parts.path or "/", safe=PLAIN, errors="replace")
    if parts.query:
        path += "?" + quote(parts.query, safe=PLAIN + "?", errors="replace")
    return Url(scheme, _ascii(host), port or PORTS[scheme], path)


def _ascii(host: str) -> str:
    """A host's name as the resolver takes it."""
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise Refused("bad_url") from None
    name = name.lower()
    if not HOST.fullmatch(name):
        raise Refused("bad_url")
    return name
