"""Video files by their first bytes: what kind they are, and whether their end is there."""

from engine.data.images import BadSample

MP4_ATOMS = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
EBML, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


def container_of(content: bytes) -> str:
    """`mp4` (QuickTime too), `matroska` (WebM too) or `avi`; no other one is ever tried.

    Raises:
        BadSample: wrong_format, or truncated where the file says that it is longer.
    """
    if content[4:8] in MP4_ATOMS:
        kind, length = "mp4", _mp4_length(content)
    elif content[:4] == EBML:
        kind, length = "matroska", _matroska_length(content)
    elif content[:4] == b"RIFF" and content[8:12] == b"AVI ":
        kind, length = "avi", 8 + int.from_bytes(content[4:8], "little")
    else:
        raise BadSample("wrong_format")
    if length > len(content):
        raise BadSample("truncated")
    return kind


def _mp4_length(content: bytes) -> int:
    """Where the last of the boxes in a row ends (ISO/IEC 14496-12, section 4.2)."""
    place, names = 0, set()
    while place + 8 <= len(content):
        size, head = int.from_bytes(content[place : place + 4], "big"), 8
        names.add(content[place + 4 : place + 8])
        if size == 1:
            size, head = int.from_bytes(content[place + 8 : place + 16], "big"), 16
        # A last box of size 0 goes to the end.
        place += len(content) - place if size == 0 else max(size, head)
    # The table of frames may stand at the end.
    return place if b"moov" in names or place > len(content) else len(content) + 1


def _matroska_length(content: bytes) -> int:
    """Where the segment ends, 0 where it does not say so (RFC 8794; RFC 9559)."""
    place = 4
    size, place = _number(content, place)
    place += size or 0
    if content[place : place + 4] != SEGMENT:
        return len(content) + 1 if place + 4 > len(content) else 0
    size, place = _number(content, place + 4)
    return 0 if size is None else place + size


def _number(content: bytes, place: int) -> tuple[int | None, int]:
    """A number of variable length and the place behind it; None where it stands for unknown."""
    first = content[place] if place < len(content) else 0
    length = 9 - first.bit_length() if first else 8
    value = int.from_bytes(content[place : place + length], "big") & ((1 << 7 * length) - 1)
    return None if value == (1 << 7 * length) - 1 else value, place + length
