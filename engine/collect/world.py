"""The world of a seed: a small clean set, and a web whose wrong captions are known."""

import contextlib
import json
import os
import random
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import ConfigError
from engine.data.captions import clean_caption
from engine.data.images import BadSample, extension_of
from engine.data.open_source import open_source
from engine.data.shard_writer import ShardWriter
from engine.data.source import RawSample

SAMPLES_PER_SHARD = 512
NOISE = "noise.json"


@dataclass(frozen=True)
class Pair:
    """A picture with one caption.

    Attributes:
        uid: stable name.
        url: where it came from, or "".
        image: encoded.
        caption: as it is stored.
        cleaned: as it is learnt; two captions are equal when these are.
    """

    uid: str
    url: str
    image: bytes
    caption: str
    cleaned: str


@dataclass(frozen=True)
class World:
    """Folders of shards, and the record of the noise.

    Attributes:
        web: shards of noisy pairs.
        clean: shards of clean pairs.
        noise: file with the true caption of every web pair and whether it was swapped.
    """

    web: Path
    clean: Path
    noise: Path

    @classmethod
    def at(cls, folder: Path) -> "World":
        """The world in a folder."""
        return cls(folder / "web", folder / "clean", folder / NOISE)


def read_noise(path: Path) -> dict[str, bool]:
    """Whether each recorded pair's caption is another picture's, by uid."""
    pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    return {uid: facts["swapped"] for uid, facts in pairs.items()}


def read_pairs(spec: str | list[str]) -> list[Pair]:
    """Every usable pair of a source, with its first caption.

    Raises:
        ConfigError: fewer than two of them, or two of one uid.
    """
    source = open_source(spec)
    pairs = [pair for n in range(len(source)) if (pair := _pair(source.read(n))) is not None]
    if len(pairs) < 2:
        raise ConfigError(f"{spec}: {len(pairs)} usable pairs, an experiment needs at least 2")
    if len({pair.uid for pair in pairs}) < len(pairs):
        raise ConfigError(f"{spec}: two pairs have one uid, so their noise could not be recorded")
    return pairs


def _pair(raw: RawSample) -> Pair | None:
    """The sample as a pair; None where it has no readable bytes or no caption."""
    if raw.problem or not raw.image or not raw.captions:
        return None
    try:
        cleaned = clean_caption(raw.captions[0], 1 << 16)
    except BadSample:
        return None
    return Pair(raw.uid, raw.url, raw.image, raw.captions[0], cleaned)


def redundant(pairs: list[Pair], least: int) -> list[Pair]:
    """The pairs of whose words each stands in at least so many of the captions that are left.

    Raises:
        ConfigError: fewer than two are left.
    """
    left, before = pairs, -1
    while len(left) != before:
        before = len(left)
        counts = Counter(word for pair in left for word in set(pair.cleaned.split()))
        left = [pair for pair in left if all(counts[w] >= least for w in pair.cleaned.split())]
    if len(left) < 2:
        raise ConfigError(
            f"data.min_word_count {least}: of {len(pairs)} captions {len(left)} are left"
        )
    return left


def divide(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Clean and other pairs; a smaller share of the same seed is a part of a larger one.

    Args:
        pairs: all.
        share: of them that is clean; at least two pairs are, and two are left.
        seed: of the choice.

    Raises:
        ConfigError: too few pairs for both.
    """
    if len(pairs) < 4:
        raise ConfigError(f"{len(pairs)} pairs: clean and web pairs need two each")
    count = min(max(2, round(share * len(pairs))), len(pairs) - 2)
    shuffled = random.Random(f"clean {seed}").sample(list(pairs), len(pairs))
    return shuffled[:count], shuffled[count:]


def deranged(pairs: Sequence[Pair], draws: random.Random) -> list[str]:
    """The pairs' captions dealt anew, so that none stays with a picture that had an equal one.

    One pass of exchanges mends a random order: where a caption came back to its kind, a partner
    exists that neither has it nor holds it, unless the caption makes up more than half.

    Raises:
        ConfigError: it does.
    """
    order = draws.sample(range(len(pairs)), len(pairs))
    own = [pair.cleaned for pair in pairs]
    for place, text in enumerate(own):
        if own[order[place]] != text:
            continue
        free = [p for p, other in enumerate(own) if text not in (other, own[order[p]])]
        if not free:
            raise ConfigError(
                f"{len(pairs)} captions cannot be swapped: {text!r} makes up more than half of them"
            )
        partner = draws.choice(free)
        order[place], order[partner] = order[partner], order[place]
    return [pairs[number].caption for number in order]


def write_noisy(
    folder: Path, pairs: Sequence[Pair], share: float, seed: int, samples_per_shard: int
) -> dict[str, Any]:
    """Write pairs as shards, a share of their captions swapped among themselves.

    Args:
        folder: for the shards.
        pairs: with their true captions.
        share: of them that are swapped, in [0, 1].
        seed: of the choice.
        samples_per_shard: pairs a shard.

    Returns:
        By uid the true caption and whether the shards hold another one.

    Raises:
        ConfigError: captions that cannot be swapped.
    """
    draws = random.Random(f"noise {seed}")
    count = round(share * len(pairs))
    # One alone has nobody to swap with.
    count = count + 1 if count == 1 else count
    chosen = sorted(draws.sample(range(len(pairs)), count))
    texts = [pair.caption for pair in pairs]
    for place, text in zip(chosen, deranged([pairs[n] for n in chosen], draws), strict=True):
        texts[place] = text
    write_pairs(folder, pairs, texts, samples_per_shard)
    wrong = set(chosen)
    return {
        pair.uid: {"true": pair.caption, "swapped": number in wrong}
        for number, pair in enumerate(pairs)
    }


def write_pairs(
    folder: Path, pairs: Sequence[Pair], texts: Sequence[str], samples_per_shard: int
) -> None:
    """Write pictures with these texts as shards, as img2dataset does."""
    with ShardWriter(folder, folder.name, samples_per_shard) as writer:
        for number, (pair, text) in enumerate(zip(pairs, texts, strict=True)):
            facts = {"uid": pair.uid, "url": pair.url}
            writer.add(f"{number:06d}", pair.image, extension_of(pair.image), text, facts)


def make_world(
    folder: Path,
    *,
    train: str | list[str],
    clean: str | list[str] | None,
    noise: float,
    clean_fraction: float,
    seed: int,
    min_word_count: int = 1,
    samples_per_shard: int = SAMPLES_PER_SHARD,
) -> World:
    """The world of a seed, made where it is not there yet, the same bytes for the same input.

    Args:
        folder: of the world.
        train: pairs, of which `clean_fraction` becomes the clean set and the rest the web.
        clean: pairs that are clean, or None; with them all of `train` is the web, and
            `clean_fraction` is the share of them that is used.
        noise: share of the web's captions that are swapped.
        clean_fraction: see above.
        seed: of all choices.
        min_word_count: captions of `train` that every word of a pair stands in, see `redundant`.
        samples_per_shard: pairs a shard, of the web and of the clean ones.

    Raises:
        ConfigError: too few pairs, or captions that cannot be swapped.
    """
    if folder.exists():
        return World.at(folder)
    if clean is None:
        trusted, web = divide(redundant(read_pairs(train), min_word_count), clean_fraction, seed)
    else:
        trusted, web = read_pairs(clean), redundant(read_pairs(train), min_word_count)
        count = max(2, round(clean_fraction * len(trusted)))
        trusted = random.Random(f"clean {seed}").sample(trusted, count)
    with aside(folder) as building:
        world = World.at(building)
        pairs = write_noisy(world.web, web, noise, seed, samples_per_shard)
        write_pairs(world.clean, trusted, [pair.caption for pair in trusted], samples_per_shard)
        settings = {"seed": seed, "noise": noise, "clean_fraction": clean_fraction}
        settings["min_word_count"] = min_word_count
        swapped = sum(facts["swapped"] for facts in pairs.values())
        counts = {"clean": len(trusted), "web": len(web), "swapped": swapped}
        _write_record(world.noise, {**settings, **counts, "pairs": pairs})
    return World.at(folder)


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A folder to build in, which takes its name when the context ends well."""
    building = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    building.mkdir(parents=True)
    try:
        yield building
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _write_record(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=0) + "\n", encoding="utf-8")
