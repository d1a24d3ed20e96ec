"""Pairs of a list, or of anything else that is read, packed into shards."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import ConfigError
from engine.data.images import extension_of, known_format
from engine.data.open_source import Joined, open_source
from engine.data.pack import SECONDS_BETWEEN_LINES
from engine.data.saved_datasets import SavedDataset, is_saved, of_split
from engine.data.shards import Shards, ShardWriter
from engine.data.source import RawSample, Source


@dataclass(frozen=True)
class Converted:
    """What was packed: pairs, bytes of their pictures, and left-out ones by reason."""

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
    """Write `output/NNNNN.tar` with their indexes, a pair for every caption, in the list's order.

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
    if any(output.glob("*.tar*")):
        raise ConfigError(f"{output}: holds shards already; name another folder")
    parts = source.parts if isinstance(source, Joined) else [source]
    indexes = [index for part in parts if isinstance(part, Shards) for index in part.indexes()]
    left_out = Counter(one.reason for index in indexes for one in index.unread)
    pairs, size, shown = 0, 0, time.monotonic()
    try:
        with ShardWriter(output, "pairs", samples_per_shard) as writer:
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
                    pairs, size = pairs + 1, size + len(raw.image or b"")
                if time.monotonic() - shown > SECONDS_BETWEEN_LINES:
                    shown = time.monotonic()
                    progress(f"{number + 1} of {len(source)} rows, {pairs} pairs")
    except OSError as error:
        raise ConfigError(f"{output}: cannot be written: {error.strerror}") from None
    if not pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.most_common())
        raise ConfigError(f"not one pair to pack: {why}; is --image_root right?")
    return Converted(pairs, size, left_out)


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
