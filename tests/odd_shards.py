"""A shard as strangers make them: two samples that are read, and all that must not be."""

import io
import tarfile
from pathlib import Path

from tests.shards import caption, picture

# What is in it and never read, with the reason of each.
UNREAD = {
    "../../up": "unsafe_name",
    "/abs": "unsafe_name",
    "a/../b": "unsafe_name",
    "twice": "duplicate_name",
    "both": "duplicate_name",
    "linked": "link",
    "hard": "link",
    "device": "special_file",
    "animation.gif": "unknown_ending",
    "shot.v2.png": "unknown_ending",
    "README": "unknown_ending",
}
READ = ["good", "caf\\xe9", "caf\\xe8"]


def write_odd(path: Path) -> Path:
    """Write the shard."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Latin-1 names: two that differ in a byte that is no UTF-8.
    with tarfile.TarFile(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for number, name in enumerate(("good", "caf\xe9", "caf\xe8")):
            _sample(tar, name, number)
        # What a sample has besides is not missed, nor are folders.
        _file(tar, "good.cls", b"7")
        _other(tar, "folder", tarfile.DIRTYPE)
        for number, name in enumerate(("../../up", "/abs", "a/../b", "twice", "twice", "linked")):
            _sample(tar, name, number)
        _file(tar, "both.jpg", picture(1, form="JPEG"))
        _file(tar, "both.png", picture(1))
        _other(tar, "linked.json", tarfile.SYMTYPE, "/etc/passwd")
        _other(tar, "hard.png", tarfile.LNKTYPE, "good.png")
        _other(tar, "device.png", tarfile.CHRTYPE)
        _file(tar, "animation.gif", b"GIF89a")
        _file(tar, "shot.v2.png", picture(2))
        _file(tar, "README", b"of a stranger")
    return path


def _sample(tar: tarfile.TarFile, key: str, number: int) -> None:
    _file(tar, f"{key}.png", picture(number))
    _file(tar, f"{key}.txt", caption(number).encode())


def _file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _other(tar: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)
