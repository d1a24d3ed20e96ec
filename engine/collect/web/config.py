"""A collection of web pictures in one typed, frozen object."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from engine.collect.web.language import LANGUAGES
from engine.config import ConfigError
from engine.data.images import MAX_ASPECT
from engine.ranges import COUNT, NOT_NEGATIVE, POSITIVE, Range, out_of_range

RANGES = {
    "samples_per_shard": COUNT,
    "workers": COUNT,
    "decoders": COUNT,
    "fetch.max_bytes": COUNT,
    "fetch.timeout": POSITIVE,
    "fetch.max_redirects": NOT_NEGATIVE,
    "fetch.retries": NOT_NEGATIVE,
    "fetch.first_wait": NOT_NEGATIVE,
    "fetch.longest_wait": NOT_NEGATIVE,
    "fetch.host_connections": COUNT,
    "fetch.host_delay": NOT_NEGATIVE,
    "screen.min_words": NOT_NEGATIVE,
    "screen.max_words": COUNT,
    "screen.min_characters": NOT_NEGATIVE,
    "screen.max_characters": COUNT,
    "screen.max_repeats": COUNT,
    "screen.min_side": COUNT,
    "screen.max_pixels": COUNT,
    "screen.max_aspect": Range(1, MAX_ASPECT),
    "screen.near": Range(0, 10),
    "screen.near_colour": Range(0, 255),
}
# What may change between two launches of one collection: how fast, not what.
APART = ("output_dir", "workers", "decoders")
APART_OF_FETCH = ("host_connections", "host_delay")


@dataclass(frozen=True, kw_only=True)
class FetchSection:
    """Bounds and manners of asking servers.

    Args:
        max_bytes: largest picture file, as it comes and after decoding.
        timeout: seconds that a try may take in all, redirects included.
        max_redirects: followed at most; each is looked at like the first URL.
        retries: further tries after a failure that may pass.
        first_wait: seconds before the first of them; each later one waits twice as long.
        longest_wait: seconds that a server may ask to wait for (Retry-After); more gives the row
            up.
        host_connections: at once to one host.
        host_delay: seconds between the starts of two requests to one host.
        robots: honour robots.txt; headers by which servers opt out always count.
        user_agent: what we call ourselves; up to `/` it is the name that robots.txt may know.
        allow_loopback: also fetch from this machine itself (for tests).
    """

    max_bytes: int = 20_000_000
    timeout: float = 20.0
    max_redirects: int = 5
    retries: int = 2
    first_wait: float = 1.0
    longest_wait: float = 60.0
    host_connections: int = 2
    host_delay: float = 0.1
    robots: bool = True
    user_agent: str = "blip-engine/0.1"
    allow_loopback: bool = False


@dataclass(frozen=True, kw_only=True)
class ScreenSection:
    """Which pairs stay.

    Args:
        languages: of captions, as codes (en, de, ...): a guess by script and frequent words, which
            lets through what it cannot tell; [] takes all.
        min_words: of a caption.
        max_words: of a caption.
        min_characters: of a caption.
        max_characters: of a caption.
        max_repeats: a caption that the list holds more often is dropped with all its pictures;
            null keeps them.
        min_side: shorter side of a picture in pixels.
        max_pixels: of a picture, known from its header before it is decoded.
        max_aspect: longer side over shorter side.
        near: pictures are copies whose 64 bits of perceptual hash differ in at most so many, and
            whose colours are alike; the first in the list stays; null keeps copies.
        near_colour: most that the mean red, green or blue of a field of 4 x 4 differs in copies.
        eval: pairs (shards or lists) whose pictures, and copies of them, must not be collected.
    """

    languages: list[str] = field(default_factory=list)
    min_words: int = 1
    max_words: int = 256
    min_characters: int = 3
    max_characters: int = 1000
    max_repeats: int | None = 100
    min_side: int = 64
    max_pixels: int = 25_000_000
    max_aspect: float = 4.0
    near: int | None = 6
    near_colour: int = 12
    eval: str | list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class WebConfig:
    """Pictures to fetch, by lists of URLs with alt texts.

    Args:
        pairs: lists (.csv, .tsv, .parquet, .jsonl): a file, a glob, a {00000..00009} range, or
            several.
        output_dir: folder for shards, tables and what is in work; an unfinished collection in it
            goes on.
        samples_per_shard: rows of the lists a shard; those that yield no picture leave gaps.
        workers: requests at once, to all hosts together.
        decoders: pictures decoded at once.
    """

    pairs: str | list[str] = ""
    output_dir: str = "runs/data/web"
    samples_per_shard: int = 1000
    workers: int = 64
    decoders: int = 2
    fetch: FetchSection = field(default_factory=FetchSection)
    screen: ScreenSection = field(default_factory=ScreenSection)

    def __post_init__(self) -> None:
        problem = out_of_range(self, RANGES)
        if problem:
            raise ConfigError(problem)
        if not self.output_dir.strip():
            raise ConfigError("output_dir is empty: name the folder of the collection")
        agent = self.fetch.user_agent
        if not agent.strip() or not agent.isascii() or not agent.isprintable():
            raise ConfigError(f"fetch.user_agent {agent!r}: must be printable ASCII")
        unknown = [code for code in self.screen.languages if code not in LANGUAGES]
        if unknown:
            known = ", ".join(LANGUAGES)
            raise ConfigError(f"screen.languages: {unknown[0]!r} is not known: choose of {known}")
        for what in ("words", "characters"):
            low, high = (getattr(self.screen, f"{end}_{what}") for end in ("min", "max"))
            if low > high:
                raise ConfigError(f"screen.min_{what} {low} is more than screen.max_{what} {high}")

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.output_dir)

    @property
    def lists(self) -> list[str]:
        """Of `pairs`, one or many."""
        return [self.pairs] if isinstance(self.pairs, str) else self.pairs


def identity(config: WebConfig) -> dict[str, Any]:
    """What the output depends on beside the lists and the servers, as JSON."""
    tree = {name: value for name, value in asdict(config).items() if name not in APART}
    del tree["pairs"]
    tree["fetch"] = {k: v for k, v in tree["fetch"].items() if k not in APART_OF_FETCH}
    return json.loads(json.dumps(tree))


def uid_of(url: str, caption: str) -> str:
    """Stable name of a pair: 128 bits of BLAKE2 over both texts, which nobody can make collide."""
    state = hashlib.blake2b(digest_size=16)
    for text in (url, caption):
        content = text.encode("utf-8", "surrogatepass")
        state.update(len(content).to_bytes(8, "little") + content)
    return state.hexdigest()
