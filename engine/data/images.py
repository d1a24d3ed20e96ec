"""From encoded bytes to a picture, or to the reason why not. Nothing is decoded unchecked."""

import io
import re
import warnings
from itertools import islice

from PIL import Image, ImageFile

from engine.config import ConfigError

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_ASPECT = 20.0
# Of a JPEG. Programs write ten or so; each costs a pass over all pixels, for 42 bytes.
MAX_SCANS, SCAN = 64, re.compile(rb"\xff\xda")


class BadSample(Exception):
    """A sample that cannot be used; `reason` is its code in the counts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def decode_image(content: bytes | None, max_pixels: int) -> Image.Image:
    """Decode to RGB; transparency goes on white, 16-bit and CMYK are converted.

    Size and scans are looked at before any pixel is decoded, so a bomb costs nothing.

    Args:
        content: encoded JPEG, PNG or WebP.
        max_pixels: larger pictures are refused.

    Raises:
        BadSample: missing, empty, wrong_format, undecodable, truncated, too_many_pixels,
            too_many_scans, too_thin, or no_pixels.
    """
    if content is None:
        raise BadSample("missing")
    if not content:
        raise BadSample("empty")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ConfigError("PIL is set to accept truncated pictures; unset LOAD_TRUNCATED_IMAGES")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Image.DecompressionBombError:
            raise BadSample("too_many_pixels") from None
        except Exception:  # noqa: BLE001 - decoders raise anything on hostile bytes
            raise BadSample(_unreadable(content)) from None
        refuse_size(image.size, max_pixels)
        if has_many_scans(content):
            raise BadSample("too_many_scans")
        try:
            image.load()
            return to_rgb(image)
        except Exception as error:  # noqa: BLE001 - as above
            reason = "truncated" if "truncated" in str(error) else "undecodable"
            raise BadSample(reason) from None


def refuse_size(size: tuple[int, int], max_pixels: int) -> None:
    """Look at the size of a picture.

    Args:
        size: width and height in pixels.
        max_pixels: larger pictures are refused.

    Raises:
        BadSample: too_many_pixels, no_pixels, or too_thin.
    """
    width, height = size
    if width * height > max_pixels:
        raise BadSample("too_many_pixels")
    if width < 1 or height < 1:
        raise BadSample("no_pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("too_thin")


def has_many_scans(content: bytes) -> bool:
    """Whether a JPEG may go over its pixels more often than any program has it."""
    # `bytes.count` takes more than twice as long, of every picture that a run loads.
    many = islice(SCAN.finditer(content), MAX_SCANS, None)
    return content[:2] == b"\xff\xd8" and next(many, None) is not None


def known_format(content: bytes) -> bool:
    """Whether it begins as a JPEG, a PNG or a WebP does."""
    return content[:2] == b"\xff\xd8" or content[:4] == b"\x89PNG" or content[8:12] == b"WEBP"


def _unreadable(content: bytes) -> str:
    return "undecodable" if known_format(content) else "wrong_format"


def extension_of(content: bytes) -> str:
    """`jpg`, `png` or `webp` by content: what can be decoded is one of three."""
    known = {b"\xff\xd8": "jpg", b"\x89P": "png"}
    return known.get(content[:2], "webp")


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as RGB: transparency on white, 16-bit values by their upper byte, whole
    numbers of a mode that files have not ("I") as bytes where none of them is larger."""
    if image.mode == "RGB":
        return image
    if image.mode == "I" and image.getextrema()[1] < 256:
        image = image.convert("L")
    if image.mode.startswith("I;16") or image.mode == "I":
        # PIL clips 16-bit values to white; keep their upper byte instead. Which of the values is
        # transparent cannot be told by it.
        image.info.pop("transparency", None)
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")
