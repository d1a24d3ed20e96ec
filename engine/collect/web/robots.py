"""robots.txt as RFC 9309 has it: groups of our name or of `*`, the longest match, `*` and `$`.

The standard library's parser knows no wildcards and takes the first match. Matching here is linear
in the path for each rule: a hostile file cannot make it slow.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

MAX_BYTES = 500 * 1024
MAX_RULES = 5000
# Escaped they are letters, and mean nothing else (RFC 9309, 2.2.3).
LETTERS = re.compile("%(2A|24)", re.IGNORECASE)
PLAIN = "/%:@!$&'()*+,;=~-._?"


@dataclass(frozen=True)
class Rules:
    """What a host allows us.

    Attributes:
        rules: (pattern, allowed) in the order of the file.
        delay: seconds between two requests that it asks for.
    """

    rules: tuple[tuple[str, bool], ...] = ()
    delay: float = 0.0

    @property
    def cost(self) -> int:
        """Bytes of memory, about."""
        return 1000 + sum(len(pattern) + 150 for pattern, _ in self.rules)

    def allow(self, path: str) -> bool:
        """Whether we may ask for a path (with its query); of equally long rules, allowing wins."""
        path, best = _plain(path.replace("*", "%2A").replace("$", "%24")), (-1, True)
        for pattern, allowed in self.rules:
            if (len(pattern), allowed) > best and _matches(pattern, path):
                best = (len(pattern), allowed)
        return best[1]


ALL, NOTHING = Rules(), Rules((("/", False),))


def parse_robots(content: bytes, agent: str) -> Rules:
    """Rules for us.

    Args:
        content: of robots.txt; what is longer than `MAX_BYTES` is left out. One with more than
            `MAX_RULES` for us allows nothing.
        agent: our token, lower case.
    """
    groups: dict[str, list[tuple[str, bool]]] = {}
    delays: dict[str, float] = {}
    # Of a group's names only those that may be ours: a file of many names costs no more.
    names: set[str] = set()
    naming = False
    for line in content[:MAX_BYTES].decode("utf-8-sig", "replace").splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        key, value = key.strip().lower(), value.strip()
        if not colon:
            continue
        if key == "user-agent":
            names = names if naming else set()
            if (name := _token(value)) in ("*", agent):
                names.add(name)
                groups.setdefault(name, [])
        elif key in ("allow", "disallow") and value:
            for name in names:
                if len(groups[name]) == MAX_RULES:
                    return NOTHING
                groups[name].append((_plain(value), key == "allow"))
        elif key == "crawl-delay" and value.replace(".", "", 1).isdecimal():
            delays |= dict.fromkeys(names, float(value))
        if key in ("user-agent", "allow", "disallow", "crawl-delay"):
            naming = key == "user-agent"
    name = agent if agent in groups else "*"
    return Rules(tuple(groups.get(name, ())), delays.get(name, 0.0))


def _token(value: str) -> str:
    """`Bot/1.0 (more)` -> `bot`."""
    return value.partition("/")[0].partition(" ")[0].lower()


def _plain(path: str) -> str:
    """One spelling for each path: what need not be escaped is not (RFC 9309, 2.2.2)."""
    path = LETTERS.sub(lambda escaped: f"%25{escaped[1].upper()}", path)
    return quote(unquote(path, errors="surrogateescape"), safe=PLAIN, errors="surrogateescape")


def _matches(pattern: str, path: str) -> bool:
    whole = pattern.endswith("$")
    first, *parts = pattern.removesuffix("$").split("*")
    if not path.startswith(first):
        return False
    place = len(first)
    for part in parts[:-1]:
        found = path.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    if not parts:
        return not whole or place == len(path)
    if whole:
        return path.endswith(parts[-1]) and len(path) - len(parts[-1]) >= place
    return path.find(parts[-1], place) >= 0
