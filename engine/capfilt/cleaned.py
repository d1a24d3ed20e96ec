"""The cleaned shard: every picture that keeps a text, with all the texts that it keeps.

`KEY.txt` is the first kept text, `KEY.json` what it was plus the kept texts and the original
caption, which is thus never lost; the picture's bytes, key, uid and url are what they were.
"""

import base64
import json
import tarfile
from pathlib import Path
from typing import Any

from engine.capfilt.rule import WEB
from engine.capfilt.table import Judged
from engine.data.images import extension_of
from engine.data.index import ShardError, build_index, store_index
from engine.data.shard_writer import add_members
from engine.data.shards import CLEANED, UNREADABLE, Shards, read_facts
from engine.data.tar_members import RefusedError

ORIGINAL = "original_caption"


def write_cleaned(target: Path, shards: Shards, pictures: list[Judged]) -> int:
    """Write a cleaned shard and its index, the same bytes for the same input.

    Args:
        target: the new .tar.
        shards: the input shard.
        pictures: its judged pictures, in order.

    Returns:
        Samples written.

    Raises:
        ShardError: the input is not what it was when its pictures were judged.
    """
    source = shards.index(0)
    numbers = {key.as_py(): number for number, key in enumerate(source.keys)}
    written = 0
    # GNU headers hold names of any length; the names of some sets are not ASCII.
    form = {"format": tarfile.GNU_FORMAT, "encoding": "utf-8", "errors": "surrogateescape"}
    with tarfile.TarFile(target, "w", **form) as tar:
        for picture in pictures:
            if not picture.kept:
                continue
            key = picture.scored.key
            if key not in numbers:
                raise ShardError(f"{source.path}: has no sample {key!r}")
            parts, problem = shards.members(numbers[key])
            if problem == UNREADABLE:
                raise RefusedError(f"{source.path}: could not be read")
            if problem or parts["image"] is None:
                raise ShardError(f"{source.path}: sample {key!r} changed while it was read")
            add_members(tar, key, _members(picture, parts, parts["image"]))
            written += 1
    store_index(build_index(target))
    return written


def _members(
    picture: Judged, parts: dict[str, bytes | None], image: bytes
) -> list[tuple[str, bytes]]:
    original, facts, kept = parts["txt"], read_facts(parts["json"]), picture.kept
    facts.setdefault("uid", picture.scored.uid)
    if original is not None:
        _remember(facts, original)
    facts[CLEANED] = {
        "captions": [text.text for text in kept],
        "sources": [text.source for text in kept],
    }
    text = kept[0].text.encode()
    if kept[0].source == WEB and original is not None and _decoded(original) == kept[0].text:
        text = original
    return [(extension_of(image), image), ("txt", text), ("json", json.dumps(facts).encode())]


def _remember(facts: dict[str, Any], original: bytes) -> None:
    """Put the original caption into the facts, unless an earlier cleaning did."""
    if CLEANED in facts:
        return
    if _decoded(original).encode() == original:
        facts[ORIGINAL] = _decoded(original)
    else:
        facts[f"{ORIGINAL}_base64"] = base64.b64encode(original).decode()


def _decoded(content: bytes) -> str:
    return content.decode("utf-8", "replace")
