"""The list of a folder's files with a hash of each: what differs from it is damaged."""

import hashlib
import json
from pathlib import Path

import xxhash

from engine.config import ConfigError
from engine.durable import sync

MANIFEST, STATE = "manifest.json", "state.json"


class CheckpointError(ConfigError):
    """A checkpoint that cannot be written, is damaged, or does not fit the run."""


def seal(folder: Path) -> None:
    """Put the files of a folder and then their manifest safely on the disk."""
    hashes = {}
    for path in sorted(folder.iterdir()):
        sync(path)
        hashes[path.name] = _hash(path)
    (folder / MANIFEST).write_text(_text(hashes), encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def verify(path: Path, *, only: tuple[str, ...] | None = None) -> list[str]:
    """Check a checkpoint's files against the manifest.

    Args:
        path: its folder.
        only: stems of the tensor files to look at, beside `state.json`; None looks at all.

    Returns:
        Names of the files that were looked at.

    Raises:
        CheckpointError: names the file that is missing or damaged.
    """
    hashes = _read(path)
    checked = [n for n in hashes if only is None or n == STATE or Path(n).stem in only]
    for name in checked:
        try:
            digest = _hash(path / name)
        except FileNotFoundError:
            raise CheckpointError(f"{path}: {name} is missing") from None
        except OSError as error:
            raise CheckpointError(f"{path}: {name} is not readable: {error.strerror}") from None
        if digest != hashes[name]:
            raise CheckpointError(f"{path}: {name} is damaged, its hash differs from the manifest")
    return checked


def _read(path: Path) -> dict[str, str]:
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(f"{path}: {MANIFEST} is missing, this is no checkpoint") from None
    except (OSError, UnicodeDecodeError):
        raise CheckpointError(f"{path}: {MANIFEST} is damaged, not readable") from None
    try:
        hashes = dict(json.loads(text)["xxh3_128"].items())
        sound = STATE in hashes and all(Path(name).name == name for name in hashes)
        sound = sound and text == _text(hashes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path}: {MANIFEST} is damaged, its own hash differs")
    return hashes


def _text(hashes: dict[str, str]) -> str:
    """The manifest, with the hash of its own entries."""
    own = xxhash.xxh3_128_hexdigest(json.dumps(hashes).encode())
    return json.dumps({"xxh3_128": hashes, "manifest": own}, indent=1)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
