"""Pictures and captions as nobody wants them, each with what must be said of it."""

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

from tests.shards import bomb


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    """A picture as bytes."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def with_sides(jpeg: bytes, width: int, height: int) -> bytes:
    """A JPEG whose frame header says something else (ITU-T T.81, B.2.2)."""
    place = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:place] + struct.pack(">HH", height, width) + jpeg[place + 4 :]


def with_text(png: bytes) -> bytes:
    """A PNG with a compressed text of 64 MB before its pixels."""
    body = b"Comment\0\0" + zlib.compress(bytes(1 << 26))
    check = struct.pack(">I", zlib.crc32(b"zTXt" + body))
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + check
    return png[:33] + chunk + png[33:]


def with_scans(jpeg: bytes, count: int) -> bytes:
    """A progressive JPEG whose last scan comes so many times more: each goes over all pixels."""
    last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    return jpeg[:-2] + last * count + jpeg[-2:]


GOOD = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
JPEG, PNG, WEBP = (encoded(GOOD, form) for form in ("JPEG", "PNG", "WEBP"))
PLAIN = encoded(Image.new("RGB", (4990, 4990), (10, 20, 30)), "JPEG", progressive=True)
DEEP = Image.fromarray(np.full((40, 40), 32768, np.uint16))
# Name -> bytes and the reason that stands for it; "" for what is unusual and a picture.
PICTURES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "empty"),
    "page": (b"<html>not a picture</html>", "wrong_format"),
    "drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "wrong_format"),
    "gif": (encoded(GOOD, "GIF"), "wrong_format"),
    "bmp": (encoded(GOOD, "BMP"), "wrong_format"),
    "tiff": (encoded(GOOD, "TIFF"), "wrong_format"),
    "noise": (random.Random(0).randbytes(5000), "wrong_format"),
    "half a JPEG": (JPEG[:1500], "truncated"),
    "half a PNG": (PNG[:2000], "truncated"),
    "half a WebP": (WEBP[:300], "undecodable"),
    "only a head": (b"\xff\xd8" + bytes(200), "undecodable"),
    "only a WebP's head": (b"RIFF\xff\xff\xff\x7fWEBPVP8 " + bytes(99), "undecodable"),
    "a flipped byte": (PNG[:200] + bytes([PNG[200] ^ 1]) + PNG[201:], "undecodable"),
    "PNG bomb": (bomb(20000, 20000), "too_many_pixels"),
    "smaller PNG bomb": (bomb(12000, 12000), "too_many_pixels"),
    "huge PNG bomb": (bomb(100000, 100000), "too_many_pixels"),
    "text bomb": (with_text(PNG), "undecodable"),
    "JPEG that says it is huge": (with_sides(JPEG, 60000, 60000), "too_many_pixels"),
    "JPEG of many scans": (with_scans(PLAIN, 200), "too_many_scans"),
    "no pixels": (PNG[:33] + PNG[-12:], "undecodable"),
    "no sides": (with_sides(JPEG, 0, 0), "undecodable"),
    "a line": (bomb(60000, 1), "too_thin"),
    "some scans": (with_scans(encoded(GOOD, "JPEG", progressive=True), 9), ""),
    "CMYK": (encoded(GOOD.convert("CMYK"), "JPEG"), ""),
    "16 bits": (encoded(DEEP, "PNG"), ""),
    "a tail": (JPEG + bytes(1 << 20), ""),
}
MARKS = "".join(chr(code) for code in (0x345, 0x315, 0x300) for _ in range(700))
# Text or not -> what is left of it, a part of it where it is long, or the reason.
CAPTIONS: list[Any] = [
    None, 3, 2.5, float("nan"), True, b"bytes", ["a list"], {"a": "dict"},
    "", " ", "\n\t\r", "...!!!", "#" * 5000, "\0", "\0" * 9000, "\ufeff", "\u200b" * 99, "\u202e",
    "\ud800", "\udfff\ud800" * 3000, "half \ud83d", "\x1b[2J\x1b]0;title\a", "a\u0000b\u202ec",
    "word " * 200_000, "x" * 1_000_000, "\u4e00" * 350_000, "\U0001f469\u200d" * 20_000,
    "a" + MARKS, ("e" + "\u0301" * 40) * 500, "\u1100\u1161\u11a8" * 9000, "\ufdfa" * 5000,
    "\u0390" * 4000, "\U0001d15e" * 4000, "\uff21" * 4000, "\u0130\u0131" * 3000, "\u2028" * 3000,
    "<script>alert(1)</script>", "'; DROP TABLE pairs; --", "%s%n{0}{{}}$(id)`id`", "\\" * 5000,
]  # fmt: skip
ALPHABETS = (
    "abc .!", "\0\t\n\x7f\x85", "\u0300\u0315\u0345e", "\u4e00\u3042\uac00", "\ud800\udc00\udfff",
    "\u200d\u202e\u2066\ufeff", "\U0001f600\U0001f3fd\U000e0061", "\u05d0\u0627\ufdfa\u0130",
)  # fmt: skip


def fuzzed(count: int, seed: int = 0) -> list[str]:
    """Texts of mixed alphabets and of any characters there are, up to 12,000 long."""
    rng, found = random.Random(seed), []
    for number in range(count):
        letters = "".join(rng.sample(ALPHABETS, rng.randint(1, 3)))
        letters += "".join(chr(rng.randrange(0x110000)) for _ in range(number % 9))
        length = int(2 ** rng.uniform(0, 13.5))
        part = "".join(rng.choices(letters, k=min(length, 97)))
        found.append((part * (length // 97 + 1))[:length])
    return found
