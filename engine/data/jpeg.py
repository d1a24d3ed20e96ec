"""JPEG to pixels, whole or at a part of its size: by simplejpeg or by Pillow; and what is whole.

Both are libjpeg-turbo and give the same bytes; simplejpeg leaves out Pillow's own copies.
"""

import importlib.util
import io
import re
from collections.abc import Callable

import numpy as np
from PIL import Image

from engine.data.images import MAX_SCANS
from engine.data.jpeg_header import FRAMES, SKIPPED

DIVISORS = (8, 4, 2, 1)
# (content, divisor of its size) -> [ceil(H / d), ceil(W / d), 3] uint8. A decoder raises whatever
# it likes where a picture is not a good colour JPEG.
Decoder = Callable[[bytes, int], np.ndarray]
# Marks of a JPEG (ITU T.81, table B.1): the start of a scan; the end; segments that every decoder
# knows; what ends a scan's data.
SCAN, END = 0xDA, 0xD9
KNOWN = SKIPPED | FRAMES | {SCAN}
AFTER_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


def by_pillow(content: bytes, divisor: int) -> np.ndarray:
    """Pillow's decoder."""
    image = Image.open(io.BytesIO(content), formats=("JPEG",))
    if image.mode != "RGB":
        raise ValueError(f"a JPEG of mode {image.mode}")
    image.draft("RGB", (image.width // divisor, image.height // divisor))
    # Pillow's own bytes are read-only, which PyTorch warns of.
    return np.array(image)


def by_simplejpeg(content: bytes, divisor: int) -> np.ndarray:
    """simplejpeg's decoder."""
    import simplejpeg

    if divisor == 1:
        # It reads the header itself, and turns no four colours into three.
        return simplejpeg.decode_jpeg(content, "RGB")
    height, width, space, _ = simplejpeg.decode_jpeg_header(content)
    if space not in ("YCbCr", "RGB"):
        raise ValueError(f"a JPEG of colours {space}")
    least = {"min_height": -(-height // divisor), "min_width": -(-width // divisor)}
    return simplejpeg.decode_jpeg(content, "RGB", min_factor=divisor, **least)


def fastest() -> Decoder:
    """simplejpeg's where it is installed."""
    return by_simplejpeg if importlib.util.find_spec("simplejpeg") else by_pillow


def is_whole(content: bytes) -> bool:
    """Whether what begins as a JPEG goes on from segment to segment, through every scan, to its
    end, and is of a kind that every decoder knows, with scans not too many. Nothing is decoded.

    With a second frame, decoders would not agree on its size.
    """
    place, frames, scans = 2, 0, 0
    while content[place : place + 1] == b"\xff":
        while content[place : place + 1] == b"\xff":
            place += 1
        mark = int.from_bytes(content[place : place + 1])
        length = int.from_bytes(content[place + 1 : place + 3])
        if mark == END:
            return frames == 1 and 0 < scans <= MAX_SCANS
        # Of other marks some have no length, and decoders do not agree on which.
        if mark not in KNOWN or length < 2:
            return False
        frames += mark in FRAMES
        place += 1 + length
        if mark == SCAN:
            scans += 1
            after = AFTER_SCAN.search(content, place)
            if after is None:
                return False
            place = after.start()
    return False
