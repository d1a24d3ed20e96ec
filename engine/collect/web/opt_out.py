"""Headers by which a server says that what it shows is not to be collected.

`X-Robots-Tag` (Google's robots meta tags, with DeviantArt's `noai` and `noimageai`, and `noml`),
and `TDM-Reservation` (W3C's TDM Reservation Protocol).
"""

from collections.abc import Iterator
from email.message import Message

# Said to anybody, they mean us.
OF_LEARNING = {"noai", "noimageai", "noml"}
# They mean us where they are said to everybody, or by our name.
OF_INDEXES = {"noindex", "noimageindex", "none"}
VALUED = {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}


def opts_out(headers: Message, agent: str) -> bool:
    """Whether an answer's headers say no.

    Args:
        headers: of the answer; each may stand there several times, with several rules.
        agent: our token, lower case.
    """
    if any(value.strip() == "1" for value in headers.get_all("TDM-Reservation") or []):
        return True
    for value in headers.get_all("X-Robots-Tag") or []:
        for name, rule in _rules(str(value).lower()):
            if rule in OF_LEARNING or (rule in OF_INDEXES and name in ("", "*", agent)):
                return True
    return False


def _rules(value: str) -> Iterator[tuple[str, str]]:
    """(agent, rule) of `noai, otherbot: noindex, nofollow`; an agent holds for what follows it."""
    name = ""
    for part in value.split(","):
        rule = part.strip()
        before, colon, after = rule.partition(":")
        if colon and before.strip() not in VALUED:
            name, rule = before.strip(), after.strip()
        yield name, rule
