"""How a picture looks, in 56 bytes that copies of it share, whatever their size, format or quality.

64 bits of dHash (Krawetz 2013: signs of differences between neighbours in 9 x 8 greys) and the mean
colours of 4 x 4 fields. The first finds copies, the second tells drawings apart that differ in
colour alone. Alone or with pHash the first takes many more different drawings for copies of each
other: LOG.md has the measurement.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FIELDS = 9, 8, 4
COLOURS = FIELDS * FIELDS * 3
BYTES = 8 + COLOURS


@dataclass(frozen=True)
class Look:
    """How a picture looks.

    Attributes:
        hash: 64 bits.
        colours: 48 bytes, RGB of each field.
    """

    hash: int
    colours: bytes

    def to_bytes(self) -> bytes:
        """As tables hold it."""
        return self.hash.to_bytes(8, "big") + self.colours

    @classmethod
    def from_bytes(cls, content: bytes) -> "Look":
        """From a table."""
        return cls(int.from_bytes(content[:8], "big"), content[8:])


def look_of(image: Image.Image) -> Look:
    """How a picture looks.

    Args:
        image: RGB, as `decode_image` gives it.
    """
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, reducing_gap=3)
    greys = np.asarray(small.convert("L"), int)
    # Not by way of a smaller picture, whose last fields would hold less.
    fields = image.resize((FIELDS, FIELDS), Image.Resampling.BOX)
    bits = np.packbits(np.diff(greys, axis=1).ravel() > 0)
    return Look(int.from_bytes(bits.tobytes(), "big"), fields.tobytes())


def alike(one: Look, other: Look, bits: int, colour: int) -> bool:
    """Whether two pictures are copies: the definition that `NearIndex` searches by.

    Args:
        one: a picture's look.
        other: another's.
        bits: of the hash that may differ.
        colour: largest difference of a field in red, green or blue, of 255.
    """
    if (one.hash ^ other.hash).bit_count() > bits:
        return False
    return all(abs(a - b) <= colour for a, b in zip(one.colours, other.colours, strict=True))
