"""Pairs of a list, or of anything else that is read, packed into shards."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import ConfigError
from engine.data.images import extension_of, known_format
from engine.data.open_source import Joined, open_source
from engine.data.pack import SECONDS_BETWEEN_LINES
from engine.data.saved_datasets import SavedDataset, is_saved, of_split
from engine.data.shards import Shards, ShardWriter
from engine.data.source import RawSample, Source
from engine.folder_lock import open_lock, try_lock

# Where shards lie until all of them are there, so that none is taken for the whole set; and the
# file that says they are.
UNFINISHED, WHOLE = ".unfinished", "whole"


@dataclass(frozen=True)
class Converted:
    """What was packed: pairs, bytes of their shards, and left-out ones by reason."""

    pairs: int
    size: int
    left_out: Counter[str]


def convert(
    specs: Sequence[str],
    output: Path,
    *,
    image_root: str | None = None,
    split: str | None = None,
    samples_per_shard: int = 1000,
    progress: Callable[[str], None] = print,
) -> Converted:
    """Write `output/NNNNN.tar` with their indexes, a pair for every caption, in the list's order;
    all or none of them, however it ends.

    Keys are numbers, in steps of one a caption; uid (with a number behind where a row has
    several captions), url and picture's id go along. Pictures are
    copied byte for byte and not decoded; those without the first bytes of one are left out.

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
    source = _opened(specs, image_root, split)
    unfinished = output / UNFINISHED
    if any(output.glob("*.tar*")) and not (unfinished / WHOLE).is_file():
        raise ConfigError(f"{output}: holds shards already; name another folder")
    parts = source.parts if isinstance(source, Joined) else [source]
    indexes = [index for part in parts if isinstance(part, Shards) for index in part.indexes()]
    left_out = Counter(one.reason for index in indexes for one in index.unread)
    try:
        with _alone(output, unfinished):
            with ShardWriter(unfinished, "pairs", samples_per_shard) as writer:
                pairs = _write(source, writer, left_out, progress)
            if pairs:
                _publish(unfinished, output)
    except OSError as error:
        problem = f"{output}: cannot be written: {error.strerror}"
        raise ConfigError(f"{problem}; nothing was kept, start again when that is mended") from None
    if not pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        raise ConfigError(f"not one pair to pack: {why}; is --image_root right?")
    size = sum(path.stat().st_size for path in output.glob("*.tar*"))
    return Converted(pairs, size, left_out)


def _write(
    source: Source, writer: ShardWriter, left_out: Counter[str], progress: Callable[[str], None]
) -> int:
    """All pairs that there is a picture and a text of; how many they are."""
    pairs, shown = 0, time.monotonic()
    for number in range(len(source)):
        raw = source.read(number)
        reason = _problem(raw)
        if reason:
            left_out[reason] += 1
            continue
        for place, caption in enumerate(raw.captions):
            if not isinstance(caption, str):
                left_out["bad_text"] += 1
                continue
            uid = raw.uid if len(raw.captions) == 1 else f"{raw.uid}#{place}"
            facts = {"uid": uid, "url": raw.url, "image_id": raw.image_id}
            form = extension_of(raw.image or b"")
            writer.add(f"{pairs:09d}", raw.image or b"", form, caption, facts)
            pairs += 1
        if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
            shown = time.monotonic()
            progress(f"{number + 1} of {len(source)} rows, {pairs} pairs")
    return pairs


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
            raise ConfigError(f"{output}: {line}: that is done now")
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
    for path in sorted(unfinished.glob("*.tar*")):
        path.rename(output / path.name)
    (unfinished / WHOLE).unlink()


def _opened(specs: Sequence[str], image_root: str | None, split: str | None) -> Source:
    saved = [Path(spec) for spec in specs if is_saved(Path(spec))]
    if not saved:
        if split is not None:
            raise ConfigError(f"--split {split}: none of {', '.join(specs)} is a saved dataset")
        return open_source(specs, image_root)
    parts: list[Source] = [SavedDataset(of_split(path, split), image_root) for path in saved]
    others = [spec for spec in specs if Path(spec) not in saved]
    return Joined([*parts, open_source(others, image_root)] if others else parts)


def _problem(raw: RawSample) -> str | None:
    """Why a pair is left out, or None."""
    if raw.problem or raw.image is None:
        return raw.problem or "missing"
    if not raw.image:
        return "empty"
    if not known_format(raw.image):
        return "wrong_format"
    return None if raw.captions else "empty_caption"
