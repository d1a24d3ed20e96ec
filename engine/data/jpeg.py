"""JPEG to pixels, whole or at a part of its size: by simplejpeg where it is, by Pillow else.

Both are libjpeg-turbo and give the same bytes; simplejpeg leaves out Pillow's own copies.
"""

import importlib.util
import io
import logging
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image

from engine.config import ConfigError

log = logging.getLogger(__name__)
DIVISORS = (8, 4, 2, 1)
Decoder = Callable[[bytes, int], np.ndarray]


def jpeg_decoder(choice: str) -> Decoder:
    """What decodes JPEG: (content, divisor of its size) -> [ceil(H / d), ceil(W / d), 3] uint8.

    A decoder raises whatever it likes where a picture is not a good colour JPEG.

    Args:
        choice: `simplejpeg`, `pillow`, or `auto`.

    Raises:
        ConfigError: it is forced and not installed.
    """
    installed = importlib.util.find_spec("simplejpeg") is not None
    if choice == "simplejpeg" and not installed:
        raise ConfigError(
            "data.jpeg_decoder: simplejpeg is not installed (pip install simplejpeg); or set auto"
        )
    name = ("simplejpeg" if installed else "pillow") if choice == "auto" else choice
    _announce(name)
    return by_simplejpeg if name == "simplejpeg" else by_pillow


@cache
def _announce(name: str) -> None:
    log.info("JPEG decoder: %s", name)


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
