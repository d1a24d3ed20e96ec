"""Small pictures as data URIs: decoded under the loader's checks and encoded anew."""

import base64
import io
import re
from collections.abc import Collection
from typing import Any

from PIL import Image

from engine.config import ConfigError
from engine.data.images import BadSample, decode_image
from engine.data.open_source import open_source
from engine.report.run_folder import RunFolder

SIDE = 160
QUALITY = 80
MAX_PIXELS = 25_000_000
MOST_READS = 200_000
LARGEST_PICTURE = 64_000
PICTURE = re.compile(r"data:image/(?:webp|jpeg|png);base64,[A-Za-z0-9+/]+={0,2}")


def thumbnail(content: bytes | None) -> str | None:
    """A picture as a WebP data URI of at most 160 pixels a side; None where it is bad."""
    image = shrunk(content, SIDE)
    return None if image is None else encoded(image, QUALITY)


def shrunk(content: bytes | None, side: int) -> Image.Image | None:
    """A picture of at most `side` pixels a side; None where it is bad."""
    try:
        image = decode_image(content, MAX_PIXELS)
    except BadSample:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def encoded(image: Image.Image, quality: int) -> str:
    """A picture as a WebP data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def held_out_thumbnails(run: RunFolder, keys: Collection[str]) -> dict[str, str]:
    """Thumbnails of held-out samples, from the data that the run's configuration names.

    Args:
        run: its `data.eval` is opened; a reason why it cannot be goes to its notes.
        keys: names of the samples wanted.
    """
    wanted, found = set(keys), {}
    spec = run.setting("data", "eval")
    if not wanted or not _is_spec(spec):
        return {}
    image_root = run.setting("data", "image_root")
    try:
        source = open_source(spec, image_root if isinstance(image_root, str) else None)
    except (ConfigError, OSError) as error:
        run.notes.append(f"Held-out pictures cannot be opened: {error}")
        return {}
    for number in range(min(len(source), MOST_READS)):
        if not wanted:
            break
        sample = source.read(number)
        if sample.key in wanted:
            wanted.discard(sample.key)
            if picture := thumbnail(sample.image):
                found[sample.key] = picture
    return found


def is_picture(uri: object) -> bool:
    """Whether a value is a data URI of a small raster picture and nothing more."""
    return (
        isinstance(uri, str) and len(uri) <= LARGEST_PICTURE and PICTURE.fullmatch(uri) is not None
    )


def _is_spec(spec: Any) -> bool:
    if isinstance(spec, list):
        return bool(spec) and all(isinstance(part, str) and part for part in spec)
    return isinstance(spec, str) and bool(spec)
