"""Pairs of a list, or of anything else that is read, packed into shards."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.config import ConfigError
from engine.data.images import extension_of, known_format
from engine.data.index import ShardIndex, index_path, open_index
from engine.data.left_out import QUARANTINE, LeftOut, unreadable
from engine.data.open_source import Joined, expand, open_source
from engine.data.pack import SECONDS_BETWEEN_LINES, SUFFIX, unread_of
from engine.data.pair_names import PairNames
from engine.data.saved_datasets import SavedDataset, is_saved, of_split
from engine.data.shard_writer import ShardWriter
from engine.data.shards import CLEANED, INDEX_CHANGED, SYNTHETIC, UNREADABLE, Shards
from engine.data.source import RawSample, Source
from engine.data.tar_members import ShardError
from engine.folder_lock import open_lock, try_lock

# Where shards lie until all of them are there, so that none is taken for the whole set; and the
# file that says they are.
UNFINISHED, WHOLE = ".unfinished", "whole"


class Stored(Source, Protocol):
    """Pairs in files: `lengths` are theirs."""

    paths: list[Path]


@dataclass(frozen=True)
class Converted:
    """What was packed.

    Attributes:
        pairs: how many.
        size: of their shards, in bytes.
        left_out: how many pairs by reason.
        first: the first of them, a line a reason.
        damaged: shards that could not be read and are left out whole, each with the reason.
    """

    pairs: int
    size: int
    left_out: Counter[str]
    first: list[str]
    damaged: dict[Path, str]


def convert(
    specs: Sequence[str],
    output: Path,
    *,
    image_root: str | None = None,
    split: str | None = None,
    samples_per_shard: int = 1000,
    progress: Callable[[str], None] = print,
) -> Converted:
    """Write `output/pairs_NNNNN.tar` with their indexes, a pair for every caption, in the list's
    order; all or none of them, however it ends.

    Keys are numbers, in steps of one a caption; uid (with a number behind where a row has
    several captions, or an earlier pair the same), url and picture's id go along, and that a
    captioner wrote a caption. Pictures are copied byte for byte and not decoded; those without the
    first bytes of one are left out. What is left out, shards that cannot be read too, is named in
    `output/quarantine.jsonl`.

    Args:
        specs: what `data.train` takes, and Hugging Face datasets saved on disk.
        output: folder, new or without shards.
        image_root: folder that relative picture paths of a list start from.
        split: of saved datasets that have several.
        samples_per_shard: pairs a shard.
        progress: takes a line every few seconds.

    Raises:
        ConfigError: nothing to read, shards in the folder, or a disk that refuses.
    """
    parts, damaged = _opened(specs, image_root, split)
    unfinished = output / UNFINISHED
    if any(output.glob("*.tar*")) and not (unfinished / WHOLE).is_file():
        raise ConfigError(f"{output}: holds shards already; name another folder")
    left_out = LeftOut(unfinished / QUARANTINE, damaged)
    try:
        with _alone(output, unfinished):
            with left_out, ShardWriter(unfinished, "pairs", samples_per_shard) as writer:
                pairs = _write(parts, writer, left_out, progress)
            if pairs:
                # Of shards that are gone.
                (output / QUARANTINE).unlink(missing_ok=True)
                _publish(unfinished, output)
    except OSError as error:
        problem = f"{output}: cannot be written: {error.strerror}"
        raise ConfigError(f"{problem}; nothing was kept, start again when that is mended") from None
    if not pairs:
        why = left_out.lines() + ([unreadable(damaged)] if damaged else [])
        why += ["is --image_root right?"] if left_out.reasons["missing"] else []
        raise ConfigError(f"not one pair to pack: {'; '.join(why)}")
    size = sum(path.stat().st_size for path in output.glob("*.tar*"))
    return Converted(pairs, size, left_out.reasons, left_out.lines(), damaged)


def _write(
    parts: Sequence[Stored],
    writer: ShardWriter,
    left_out: LeftOut,
    progress: Callable[[str], None],
) -> int:
    """All pairs that there is a picture and a text of; how many they are."""
    rows, done, pairs, shown = sum(map(len, parts)), 0, 0, time.monotonic()
    names = PairNames()
    for file, row, raw in _rows(parts):
        # Of rows that are left out too: a name does not depend on which pictures are there.
        uids = names.of(raw)
        if reason := _problem(raw):
            left_out.add(file, row, raw.key, uids[0] if len(uids) == 1 else raw.uid, reason)
        else:
            for uid, caption, written in zip(uids, raw.captions, _written(raw), strict=True):
                if not isinstance(caption, str):
                    left_out.add(file, row, raw.key, uid, "bad_text")
                    continue
                facts: dict[str, Any] = {"uid": uid, "url": raw.url, "image_id": raw.image_id}
                if written:
                    # As cleaning says it: the next one must not take it for a text of the web.
                    facts[CLEANED] = {"captions": [caption], "sources": [SYNTHETIC]}
                form = extension_of(raw.image or b"")
                writer.add(f"{pairs:09d}", raw.image or b"", form, caption, facts)
                pairs += 1
        done += 1
        if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            out = left_out.reasons.total()
            progress(f"{done} of {rows} rows, {pairs} pairs, {out} left out")
    for part in parts:
        for index in part.indexes() if isinstance(part, Shards) else ():
            for one in index.unread:
                left_out.add(index.path, None, one.key, one.uid, one.reason)
    return pairs


def _written(raw: RawSample) -> list[bool]:
    """Of each caption whether a captioner wrote it."""
    return [*raw.synthetic, *[False] * len(raw.captions)][: len(raw.captions)]


def _rows(parts: Sequence[Stored]) -> Iterator[tuple[Path, int, RawSample]]:
    """File, row of it, and what stands there."""
    for part in parts:
        number = 0
        for path, length in zip(part.paths, part.lengths, strict=True):
            for row in range(length):
                try:
                    raw = part.read(number)
                except OSError as error:
                    problem = f"{path}: cannot be read: {error.strerror}"
                    raise ConfigError(f"{problem}; nothing was kept") from None
                if raw.problem in (INDEX_CHANGED, UNREADABLE):
                    raise ConfigError(f"{path}: was replaced or went; nothing was kept")
                yield path, row, raw
                number += 1


@contextlib.contextmanager
def _alone(output: Path, unfinished: Path) -> Iterator[None]:
    """The folder of shards that are not all there yet; what is left in it goes with it.

    Raises:
        ConfigError: another conversion has it, or one before had only its shards to move.
    """
    with open_lock(unfinished) as lock:
        if not try_lock(lock):
            raise ConfigError(f"{output}: another conversion is writing here")
        if (unfinished / WHOLE).is_file():
            _publish(unfinished, output)
            shutil.rmtree(unfinished, ignore_errors=True)
            line = "holds shards already, of a conversion that had only to put them in place"
            named = f"; {output / QUARANTINE} names what it left out"
            more = named if (output / QUARANTINE).is_file() else ""
            raise ConfigError(f"{output}: {line}: that is done now{more}")
        try:
            # Of a conversion that was killed.
            for path in unfinished.glob("*.tar*"):
                path.unlink()
            yield
        finally:
            if not (unfinished / WHOLE).is_file():
                shutil.rmtree(unfinished, ignore_errors=True)


def _publish(unfinished: Path, output: Path) -> None:
    """Move whole shards to where they are read, all of them: one that is interrupted is finished
    by the next."""
    (unfinished / WHOLE).touch()
    for path in sorted([*unfinished.glob("*.tar*"), *unfinished.glob(QUARANTINE)]):
        path.rename(output / path.name)
    (unfinished / WHOLE).unlink()


def _opened(
    specs: Sequence[str], image_root: str | None, split: str | None
) -> tuple[list[Stored], dict[Path, str]]:
    """All that is named, and shards that cannot be read, each with the reason."""
    saved = [Path(spec) for spec in specs if is_saved(Path(spec))]
    if split is not None and not saved:
        raise ConfigError(f"--split {split}: none of {', '.join(specs)} is a saved dataset")
    parts: list[Stored] = [SavedDataset(of_split(path, split), image_root) for path in saved]
    paths = [path for spec in specs if Path(spec) not in saved for path in expand(spec)]
    shards, damaged = _whole([path for path in paths if path.suffix == SUFFIX])
    parts += [shards] if shards.paths else []
    if others := [str(path) for path in paths if path.suffix != SUFFIX]:
        source = open_source(others, image_root)
        parts += source.parts if isinstance(source, Joined) else [source]
    if not any(map(len, parts)):
        indexes = [one for one in shards.indexes() if one.unread]
        why = [unread_of(indexes)] if indexes else []
        why += [unreadable(damaged)] if damaged else []
        if why:
            raise ConfigError(f"not one pair to pack: {'; '.join(why)}")
        raise ConfigError(f"{', '.join(specs)}: no picture-caption pair in it")
    return parts, damaged


def _whole(paths: Sequence[Path]) -> tuple[Shards, dict[Path, str]]:
    """Those of the shards that can be read, and why the others cannot."""
    damaged: dict[Path, str] = {}
    # Of folders that cannot be written: to build one again takes the whole shard.
    unstored: dict[Path, ShardIndex] = {}
    for path in paths:
        try:
            index = open_index(path)
        except ShardError as error:
            damaged[path] = str(error).removeprefix(f"{path}: ")
            continue
        if not index_path(path).is_file():
            unstored[path] = index
    whole = [path for path in paths if path not in damaged]
    return Shards(whole, lambda path: unstored.get(path) or open_index(path)), damaged


def _problem(raw: RawSample) -> str | None:
    """Why a pair is left out, or None."""
    if raw.problem or raw.image is None:
        return raw.problem or "missing"
    if not raw.image:
        return "empty"
    if not known_format(raw.image):
        return "wrong_format"
    return None if raw.captions else "empty_caption"
