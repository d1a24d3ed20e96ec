"""Small real videos: drawn pictures one after the other, and lists of them."""

import io
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image

from tests.shards import COLOURS, SHAPES, picture

MILLISECOND = Fraction(1, 1000)


def encode(
    frames: Sequence[Image.Image],
    form: str = "mp4",
    codec: str = "mpeg4",
    times: Sequence[int] | None = None,
    b_frames: int = 0,
    key_every: int = 8,
) -> bytes:
    """A video of these pictures, shown at `times` in milliseconds or 25 a second."""
    out = io.BytesIO()
    options = {"g": str(key_every), "bf": str(b_frames)}
    with av.open(out, "w", format=form) as opened:
        stream = opened.add_stream(codec, rate=25, options=options)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 2_000_000
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = MILLISECOND
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_image(image)
            if times is not None:
                frame.pts, frame.time_base = times[number], MILLISECOND
            opened.mux(stream.encode(frame))
        opened.mux(stream.encode(None))
    return out.getvalue()


def shades(count: int, size: tuple[int, int] = (48, 32)) -> list[Image.Image]:
    """Grey pictures, each lighter than the one before."""
    return [Image.new("RGB", size, (16 + 200 * n // count,) * 3) for n in range(count)]


def clip(first: int, second: int, frames: int = 8) -> bytes:
    """`picture(first)`, then `picture(second)`."""
    shown = [Image.open(io.BytesIO(picture(number))) for number in (first, second)]
    return encode([shown[2 * number // frames] for number in range(frames)])


def write_videos(folder: Path, count: int) -> Path:
    """`count` captions of 8 clips, as MSRVTT's lines have them."""
    rows = []
    for number in range(count):
        name = f"video{number % 8}"
        if number < 8:
            (folder / f"{name}.mp4").write_bytes(clip(number, number + 9))
        first, second = (f"a {COLOURS[n % 8]} {SHAPES[n // 8 % 4]}" for n in (number, number + 9))
        rows.append({"clip_name": name, "caption": f"{first}, then {second}."})
    path = folder / "videos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_video_questions(folder: Path, count: int) -> Path:
    """`count` questions about 8 clips, as MSRVTT-QA has them."""
    rows = []
    for number in range(8):
        (folder / f"video{number}.mp4").write_bytes(clip(number, number + 9))
    for number in range(count):
        question = f"What comes after the {COLOURS[number % 8]} one?"
        answer = COLOURS[(number + 1) % 8]
        rows.append({"video_id": number % 8, "question": question, "answer": answer, "id": number})
    path = folder / "video_questions.json"
    path.write_text(json.dumps(rows))
    return path
