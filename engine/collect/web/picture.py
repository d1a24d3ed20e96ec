"""A picture that arrived: what it is by its bytes, and what is against it."""

import threading
from dataclasses import dataclass

from engine.collect.web.config import ScreenSection
from engine.collect.web.look import Look, look_of
from engine.collect.web.refusal import Refused
from engine.data.images import BadSample, decode_image, extension_of


@dataclass(frozen=True)
class Picture:
    """What is known of a picture: its kind, its sides in pixels, and how it looks."""

    extension: str
    width: int
    height: int
    look: Look


class PictureScreen:
    """Decodes pictures and measures them, few at a time: decoded they are many times larger.

    Args:
        section: of the settings.
        decoders: at once.
    """

    def __init__(self, section: ScreenSection, decoders: int) -> None:
        self.section = section
        self._free = threading.BoundedSemaphore(decoders)

    def look_at(self, content: bytes) -> Picture:
        """Decode a picture, by its content alone.

        Raises:
            Refused: a reason of `decode_image`, `too_small`, or `too_thin`.
        """
        with self._free:
            try:
                image = decode_image(content, self.section.max_pixels)
            except BadSample as bad:
                raise Refused(bad.reason) from None
            short, long = sorted(image.size)
            if short < self.section.min_side:
                raise Refused("too_small")
            if long > self.section.max_aspect * short:
                raise Refused("too_thin")
            return Picture(extension_of(content), *image.size, look_of(image))
