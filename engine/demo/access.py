"""Whose requests are answered: those of the page that this demo served, under an address of its.

A page of another site that is open in the same browser must reach nothing. It can send requests to
this machine, but neither with a header of its own nor as this page's origin (cross-site request
forgery); and it can make its own name resolve to this machine and be of the same origin then, but
not under an address (DNS rebinding).
"""

import ipaddress
import re
import secrets
from collections.abc import Mapping

from engine.demo.config import is_local

TOKEN_HEADER = "X-Demo-Token"
HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9A-Za-z.-]+)(?::([0-9]{1,5}))?")
# Browsers leave it out.
USUAL_PORT = 80


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: one line for whoever asked.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


class Access:
    """The rule.

    Args:
        host: address that is listened on.
        port: of the same.

    Attributes:
        token: that the page sends along, new in every start.
    """

    def __init__(self, host: str, port: int) -> None:
        self._local, self._port = is_local(host), port
        self.token = secrets.token_urlsafe(32)

    def check_host(self, headers: Mapping[str, str]) -> None:
        """Refuse a Host that is no address of this machine with this port.

        Addresses cannot be rebound, so where the network may come in any of them will do.

        Raises:
            Refused: another one, or none.
        """
        found = HOST.fullmatch(headers.get("Host") or "")
        if (
            not found
            or int(found[2] or USUAL_PORT) != self._port
            or not self._is_ours(found[1].strip("[]"))
        ):
            raise Refused(
                421, f"ask for this page by its address, as in http://127.0.0.1:{self._port}"
            )

    def _is_ours(self, name: str) -> bool:
        if name.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or not self._local
        except ValueError:
            return False

    def check_page(self, headers: Mapping[str, str]) -> None:
        """Refuse what this demo's page did not send; the host is checked already.

        Raises:
            Refused: another origin, or not this start's token.
        """
        origin = headers.get("Origin")
        if origin is not None and origin != f"http://{headers['Host']}":
            raise Refused(403, "another site's page cannot use this demo")
        token = headers.get(TOKEN_HEADER) or ""
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.token.encode()):
            raise Refused(403, "this page is of an earlier start of the demo: load it again")
