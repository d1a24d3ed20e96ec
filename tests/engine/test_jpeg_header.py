"""The size that a JPEG states, read as Pillow reads it or left to Pillow."""

import io

import numpy as np
import pytest
from PIL import Image

from engine.data.jpeg_header import colour_sides, keeps_rgb

PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8))


def jpeg(image: Image.Image, **settings: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **settings)
    return out.getvalue()


KINDS = (
    {},
    {"progressive": True},
    {"subsampling": 0},
    {"keep_rgb": True},
    {"restart_marker_rows": 1},
    {"comment": b"\xff\xc0 is no frame here"},
    {"icc_profile": bytes(90_000)},
    {"exif": b"Exif\0\0" + jpeg(Image.new("RGB", (9, 7)))},
)


@pytest.mark.parametrize("settings", KINDS)
def test_sides_of_colour_pictures(settings: dict[str, object]) -> None:
    assert colour_sides(jpeg(PHOTO, **settings)) == (53, 37)


@pytest.mark.parametrize("settings", KINDS)
def test_who_keeps_red_green_and_blue(settings: dict[str, object]) -> None:
    assert keeps_rgb(jpeg(PHOTO, **settings)) is ("keep_rgb" in settings)


def test_adobes_segment_says_what_was_done_to_the_colours() -> None:
    content = jpeg(PHOTO)
    for transform, kept in ((0, True), (1, False)):
        segment = b"Adobe" + bytes([0, 100, 0, 0, 0, 0, transform])
        added = b"\xff\xee" + (len(segment) + 2).to_bytes(2) + segment
        assert keeps_rgb(content[:2] + added + content[2:]) is kept


def test_cut_off_anywhere_nothing_is_said() -> None:
    content = jpeg(PHOTO, keep_rgb=True)
    assert {keeps_rgb(content[:end]) for end in range(40)} <= {True, False}


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_the_definition(mode: str) -> None:
    assert colour_sides(jpeg(PHOTO.convert(mode))) is None


def test_what_ends_before_its_frame_or_is_no_marker_has_no_sides() -> None:
    content = jpeg(PHOTO)
    frame = content.index(b"\xff\xc0")
    assert all(colour_sides(content[:end]) is None for end in range(frame + 10))
    assert colour_sides(content[: frame + 10]) == (53, 37)
    for place in (0, 1, 2, frame):
        assert colour_sides(content[:place] + b"\x00" + content[place + 1 :]) is None
    # A length that does not count itself would never move on.
    assert colour_sides(b"\xff\xd8\xff\xe0\x00\x00" + content[6:]) is None


def test_a_frame_of_another_length_is_left_to_the_definition() -> None:
    content = jpeg(PHOTO)
    frame = content.index(b"\xff\xc0")
    for length in (8, 16, 18, 20):
        other = content[: frame + 2] + length.to_bytes(2) + content[frame + 4 :]
        assert colour_sides(other) is None
