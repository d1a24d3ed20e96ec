"""Videos: the frames taken are the right ones, whatever the coding, and what is bad has a name."""

import io
import random
import sys
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from engine.config import ConfigError
from engine.data import videos
from engine.data.images import BadSample
from engine.data.videos import decode_video, frame_numbers
from tests.videos import encode, shades

MUCH = 1_000_000
CODINGS = [
    ("mp4", "mpeg4", 0),
    ("mp4", "mpeg4", 2),
    ("mov", "libx264", 3),
    ("matroska", "libx264", 3),
    ("webm", "libvpx-vp9", 0),
    ("avi", "mpeg4", 2),
]
each_coding = pytest.mark.parametrize(("form", "codec", "b_frames"), CODINGS)


def needs(codec: str) -> None:
    """Skip where this build of PyAV cannot encode it."""
    if codec not in av.codecs_available:
        pytest.skip(f"no {codec}")


def reason(content: bytes | None, count: int = 4, max_pixels: int = MUCH) -> str:
    with pytest.raises(BadSample) as bad:
        decode_video(content, count, max_pixels)
    return bad.value.reason


@pytest.mark.parametrize("total", [8, 40, 301, 1000])
def test_frames_are_the_originals(total: int) -> None:
    """Its `np.arange(0, total, total / count, dtype=int)`, which cuts the distance down."""
    for count in (4, 8, 16):
        if total >= count:
            assert (
                frame_numbers(total, count)
                == np.arange(0, total, total / count, dtype=int).tolist()
            )


def test_a_short_video_shows_every_frame() -> None:
    assert frame_numbers(3, 8) == [0, 0, 0, 1, 1, 1, 2, 2]


@each_coding
@pytest.mark.parametrize("variable", [False, True])
def test_frames_are_those_that_decoding_everything_gives(
    form: str, codec: str, b_frames: int, variable: bool
) -> None:
    needs(codec)
    if variable and form == "avi":
        pytest.skip("AVI has one rate")
    times = [20 * n + 3 * n * n for n in range(41)] if variable else None
    content = encode(shades(41), form, codec, times, b_frames)
    with av.open(io.BytesIO(content)) as opened:
        every = [frame.to_image() for frame in opened.decode(video=0)]
    assert len(every) == 41
    for count in (1, 4, 8, 16):
        taken = decode_video(content, count, MUCH)
        for image, number in zip(taken, frame_numbers(41, count), strict=True):
            assert np.array_equal(image, every[number]), (count, number)


def test_what_lies_between_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, plain = [], videos._decoded

    def counting(*given: Any) -> Iterator[tuple[int, Any]]:
        for step in plain(*given):
            decoded.append(step)
            yield step

    monkeypatch.setattr(videos, "_decoded", counting)
    decode_video(encode(shades(64)), 4, MUCH)
    # Frames 0, 16, 32 and 48 are key frames; one frame of delay each.
    assert len(decoded) <= 8


@each_coding
def test_a_torn_video_is_truncated_wherever_it_is_torn(
    form: str, codec: str, b_frames: int
) -> None:
    needs(codec)
    content = encode(shades(12), form, codec, None, b_frames)
    draw = random.Random(0)
    for length in (len(content) - 1, *(draw.randrange(16, len(content)) for _ in range(20))):
        assert reason(content[:length]) == "truncated", length


@each_coding
def test_a_flipped_byte_gives_frames_or_a_reason(form: str, codec: str, b_frames: int) -> None:
    needs(codec)
    content, draw = encode(shades(12), form, codec, None, b_frames), random.Random(0)
    for _ in range(40):
        torn = bytearray(content)
        for _ in range(draw.choice((1, 30))):
            torn[draw.randrange(len(torn))] ^= 1 << draw.randrange(8)
        try:
            assert len(decode_video(bytes(torn), 4, MUCH)) == 4
        except BadSample as bad:
            assert bad.reason


def test_what_is_bad_has_a_reason() -> None:
    good = encode(shades(8))
    assert reason(None) == "missing"
    assert reason(b"") == "empty"
    assert reason(good, max_pixels=48 * 32 - 1) == "too_many_pixels"
    assert reason(encode(shades(1))) == "one_frame"
    assert reason(encode(shades(4, (420, 20)))) == "too_thin"
    slow = [200_000 * number for number in range(8)]
    assert reason(encode(shades(8), "matroska", "mpeg4", slow)) == "too_long"
    assert reason(encode(shades(4), "avi", "ffv1")) == "wrong_codec"
    still = io.BytesIO()
    shades(1)[0].save(still, "PNG")
    assert reason(still.getvalue()) == "wrong_format"


def test_a_video_has_no_more_pixels_than_may_be_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(shades(8))
    monkeypatch.setattr(videos, "MAX_DECODED", 8 * 48 * 32)
    assert len(decode_video(content, 4, MUCH)) == 4
    monkeypatch.setattr(videos, "MAX_DECODED", 8 * 48 * 32 - 1)
    assert reason(content) == "too_long"


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n",
        "ffconcat version 1.0\nfile '/etc/hostname'\n",
        "<?xml version='1.0'?><MPD><BaseURL>http://127.0.0.1:9/</BaseURL></MPD>",
        "file:/etc/hostname",
        "concat:a.mp4|b.mp4",
        "[InternetShortcut]\nURL=http://127.0.0.1:9/a.mp4\n",
    ],
)
def test_what_names_other_files_is_no_video(text: str) -> None:
    assert reason(text.encode()) == "wrong_format"


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(shades(4))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"videos need the package av: pip install '.\[video\]'"):
        decode_video(content, 4, MUCH)


def test_frames_are_pictures_of_their_size() -> None:
    (image,) = decode_video(encode(shades(4, (64, 48))), 1, MUCH)
    assert isinstance(image, Image.Image)
    assert (image.size, image.mode) == ((64, 48), "RGB")
