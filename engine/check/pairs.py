"""A bounded look at a set of pairs: how many there are, and a sample of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from engine.check.shards import look_at_shards, member_endings, spread
from engine.config import ConfigError
from engine.data.annotations import Annotations
from engine.data.kept_texts import SHARDS, is_cleaned
from engine.data.open_source import Joined, expand, open_source
from engine.data.pack import unread_of
from engine.data.shards import Shards
from engine.data.source import RawSample, Source
from engine.evaluation.tasks import TASKS
from engine.findings import Finding, error, warning
from engine.remote.store import is_url
from engine.training.tuning import OBJECTIVES

SAMPLES = 64
# Bytes and rows: longer lists take longer to go through than a check may.
LONGEST_LIST = 1 << 30
LONGEST_NAMES = 2_000_000
# Shards of a captioning-and-filtering output that are opened with their tables.
MOST_CLEANED = 64
PAIR_TASKS = ("pretrain", "caption", "retrieval")


@dataclass(frozen=True)
class Pairs:
    """What a bounded look tells of a set.

    Attributes:
        key: setting that names it.
        source: what was opened of it.
        count: pairs in all.
        samples: some of them, evenly from all that was opened.
        shards: tar files that a run keeps open.
        fingerprint: of the set; None where only a part was opened.
    """

    key: str
    source: Source
    count: int
    samples: tuple[RawSample, ...]
    shards: int
    fingerprint: str | None

    def picture_hashes(self) -> np.ndarray:
        """xxh3 of the stored pictures that are known: every one of opened shards, else sampled."""
        parts = [part for part in _parts(self.source) if isinstance(part, Shards)]
        known = [index.hashes["image"] for part in parts for index in part.indexes()]
        if not parts:
            hashed = [xxhash.xxh3_64_intdigest(one.image) for one in self.samples if one.image]
            known = [np.array(hashed, np.uint64)]
        return np.unique(np.concatenate([np.zeros(0, np.uint64), *known]))

    def pair_hashes(self) -> np.ndarray:
        """A number for each picture with its text in opened shards; equal for equal ones."""
        parts = [part for part in _parts(self.source) if isinstance(part, Shards)]
        known = [
            index.hashes["image"] ^ (index.hashes["txt"] << np.uint64(1))
            for part in parts
            for index in part.indexes()
        ]
        return np.concatenate([np.zeros(0, np.uint64), *known])

    def repeated_names(self) -> int:
        """How many pairs of opened shards have the name of another one."""
        parts = [part for part in _parts(self.source) if isinstance(part, Shards)]
        indexes = [index for part in parts for index in part.indexes()]
        return sum(map(len, indexes)) - len({uid for i in indexes for uid in i.uids.to_pylist()})

    def names(self) -> set[str]:
        """Stable names of pairs that are known: those of opened shards whose JSON gives a name.

        A key is none: sets that are made apart count from 0.
        """
        found: set[str] = set()
        for part in _parts(self.source):
            if isinstance(part, Shards):
                for index in part.indexes():
                    pairs = zip(index.uids.to_pylist(), index.keys.to_pylist(), strict=True)
                    found |= {uid for uid, key in pairs if uid != key}
            elif isinstance(part, Annotations) and len(part) <= LONGEST_NAMES:
                found |= {str(part.root / name) for name in part.pictures.to_pylist()}
        return found


def open_pairs(
    key: str, spec: str | Sequence[str], image_root: str | None, task: str
) -> tuple[Pairs | None, list[Finding]]:
    """Open what a setting names, as far as it is there.

    Args:
        key: the setting.
        spec: its value.
        image_root: folder that relative picture paths start from.
        task: that it is opened for.

    Returns:
        The pairs, None where nothing could be opened; and what is wrong.
    """
    findings: list[Finding] = []
    specs = [spec] if isinstance(spec, str) else list(spec) or [""]
    if image_root and not Path(image_root).is_dir():
        advice = "set it to the one that picture paths of the list start from"
        line = f"data.image_root {image_root}: no such folder; {advice}"
        findings.append(error("image_root", line))
        image_root = None
    if task not in PAIR_TASKS:
        return _open_list(key, spec, image_root, task, findings)
    paths: list[Path] = []
    for one in specs:
        try:
            _refuse_url(one)
            paths += expand(one)
        except ConfigError as problem:
            advice = f"set {key} to shards, a folder of them, or a list of pairs"
            findings.append(error("data_missing", f"{key} {problem}; {advice}"))
    paths = [shard for path in paths for shard in _of_large(path)]
    tars = [path for path in paths if path.suffix == ".tar"]
    looked = look_at_shards(key, tars) if tars else None
    parts: list[Source] = [looked.shards] if looked and len(looked.shards) else []
    if looked:
        findings += looked.findings or _strange_members(key, looked.shards)
        findings += _unread(key, looked.shards)
    for path in (path for path in paths if path.suffix != ".tar"):
        try:
            _refuse_length(path)
            parts.append(open_source(str(path), image_root))
        except ConfigError as problem:
            findings.append(error("list", f"{key}: {problem}"))
    if not parts:
        if not any(one.severity == "error" for one in findings):
            findings.append(error("data_missing", f"{key}: no picture-caption pair in it"))
        return None, findings
    source = parts[0] if len(parts) == 1 else Joined(parts)
    count = len(source) + (looked.samples - len(looked.shards) if looked else 0)
    whole = (looked is None or looked.whole) and not any(f.severity == "error" for f in findings)
    # Of several sets in the order that a run joins them in.
    fingerprint = source.fingerprint if whole and len(parts) == 1 else None
    return Pairs(key, source, count, _sample(source), len(tars), fingerprint), findings


def _open_list(
    key: str,
    spec: str | Sequence[str],
    image_root: str | None,
    task: str,
    findings: list[Finding],
) -> tuple[Pairs | None, list[Finding]]:
    """Questions, statements, dialogues or videos."""
    try:
        # An evaluation asks for less: of a benchmark's test part nobody knows the answers.
        opening = TASKS[task].open if key == "data.eval" else OBJECTIVES[task].slots.open_source
        source = opening(spec, image_root)
    except ConfigError as problem:
        return None, [*findings, error("list", f"{key}: {problem}")]
    pairs = Pairs(key, source, len(source), _sample(source), 0, source.fingerprint)
    return pairs, findings


def _strange_members(key: str, shards: Shards) -> list[Finding]:
    """Shards whose members have other endings than those that are read."""
    for kind, wanted in (("image", "jpg, png or webp"), ("txt", "txt, or a caption in json")):
        stored = sum(int((index.places[kind][:, 1] >= 0).sum()) for index in shards.indexes())
        in_json = kind == "txt" and any(
            (i.places["json"][:, 1] >= 0).any() for i in shards.indexes()
        )
        if stored or in_json or not len(shards):
            continue
        path = shards.paths[0]
        endings = ", ".join(member_endings(path)) or "none"
        line = f"{key}: no member of {path} ends in {wanted}; found: {endings}; name them so"
        return [error("member_names", line)]
    return []


def _unread(key: str, shards: Shards) -> list[Finding]:
    """What lies in shards and no run ever reads."""
    some = [index for index in shards.indexes() if index.unread]
    if not some:
        return []
    line = f"{key} {some[0].path}: {unread_of(some[:1])}; name the members as samples are named"
    more = f" (in {len(some)} shards: launch/pack.py index names them)" if len(some) > 1 else ""
    return [warning("samples_unread", f"{line}{more}")]


def _sample(source: Source) -> tuple[RawSample, ...]:
    return tuple(source.read(number) for number in spread(range(len(source)), SAMPLES))


def _of_large(path: Path) -> list[Path]:
    """The shards of a cleaned set that is too large to be opened, whose pictures then count."""
    if path.suffix != ".tar" and is_cleaned(path):
        tars = sorted((path / SHARDS).glob("*.tar"))
        return tars if len(tars) > MOST_CLEANED else [path]
    return [path]


def _refuse_url(spec: str) -> None:
    if is_url(spec):
        raise ConfigError(f"{spec}: training reads from disks, not by URL: fetch the shards first")


def _refuse_length(path: Path) -> None:
    if path.suffix == ".json" and path.stat().st_size > LONGEST_LIST:
        size = path.stat().st_size / 1e9
        raise ConfigError(
            f"{path}: {size:.1f} GB of JSON take minutes and several times the memory at every "
            "start: write it as Parquet with the same columns"
        )


def _parts(source: Source) -> Sequence[Source]:
    return source.parts if isinstance(source, Joined) else [source]
