"""From an encoded video to some of its frames, or to the reason why not. Nothing else is opened.

A container may name other files or addresses, and a demuxer may be talked into reading them: its
kind is told from its first bytes, it is read from memory, and whatever it asks to open beside is
refused. PyAV, which brings the decoders, is an optional dependency.
"""

import importlib
import io
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

from engine.config import ConfigError
from engine.data.containers import container_of
from engine.data.images import MAX_ASPECT, BadSample

MAX_SECONDS, MAX_FRAMES = 600.0, 36_000
# Pixels of all frames of a video: those of full HD for as long.
MAX_DECODED = MAX_FRAMES * 1920 * 1088
CODECS = ("av1", "h263", "h264", "hevc", "mjpeg", "mpeg2video", "mpeg4", "vp8", "vp9")
DECODERS = (*CODECS, "libdav1d", "libvpx", "libvpx-vp9")


def decode_video(content: bytes | None, count: int, max_pixels: int) -> list[Image.Image]:
    """Frames at equal distances from the first one on, as RGB.

    Args:
        content: encoded MP4, QuickTime, Matroska, WebM or AVI.
        count: frames to take.
        max_pixels: of a frame; videos of larger ones are refused by their headers.

    Raises:
        BadSample: missing, empty, wrong_format, wrong_codec, no_video, one_frame, undecodable,
            truncated, too_many_pixels, too_thin, too_long, or no_pixels.
        ConfigError: PyAV is not installed.
    """
    if content is None:
        raise BadSample("missing")
    if not content:
        raise BadSample("empty")
    av, container = pyav(), container_of(content)
    options = {
        "codec_whitelist": ",".join(DECODERS),
        "format_whitelist": av.format.ContainerFormat(container, "r").name,
        "protocol_whitelist": "none",
        "max_pixels": _most_pixels(max_pixels),
    }
    try:
        with av.open(
            io.BytesIO(content), "r", format=container, options=options, io_open=_refuse
        ) as opened:
            return _sampled(opened, count, max_pixels)
    except BadSample:
        raise
    except Exception:  # noqa: BLE001 - decoders raise anything on hostile bytes
        raise BadSample("undecodable") from None


def frame_numbers(total: int, count: int) -> list[int]:
    """Which frames are taken of `total`: every (total // count)-th, as the original does.

    Its numpy.arange of integers cuts the distance down to a whole number. Of a video with fewer
    frames than asked for it takes the first one alone; here all are taken, some of them twice.
    """
    step = total // count
    return [number * step if step else number * total // count for number in range(count)]


def pyav() -> Any:
    """The package that decodes and encodes videos.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("av")
    except ImportError:
        raise ConfigError("videos need the package av: pip install '.[video]'") from None


def _refuse(url: str, flags: int, options: dict[str, str]) -> Any:
    raise BadSample("undecodable")


def _most_pixels(max_pixels: int) -> str:
    """What decoders are held to: they pad frames, and must tell the size of what is too large."""
    return str(4 * max(max_pixels, 1 << 18))


def _sampled(opened: Any, count: int, max_pixels: int) -> list[Image.Image]:
    # A cover is a stream of one picture.
    covers = [s.disposition & type(s.disposition).attached_pic for s in opened.streams.video]
    streams = [s for s, cover in zip(opened.streams.video, covers, strict=True) if not cover]
    if not streams:
        raise BadSample("no_video")
    stream, context = streams[0], streams[0].codec_context
    if context is None or context.codec.canonical_name not in CODECS:
        raise BadSample("wrong_codec")
    _refuse_size(context.width, context.height, max_pixels)
    if opened.duration is not None and opened.duration > MAX_SECONDS * 1e6:
        raise BadSample("too_long")
    packets = _packets(opened, stream)
    if len(packets) * context.width * context.height > MAX_DECODED:
        raise BadSample("too_long")
    shown = [packet.pts for packet in packets if not packet.is_discard]
    if len(shown) < 2:
        raise BadSample("one_frame")
    context.thread_count, context.thread_type = 1, "NONE"
    context.options = {"max_pixels": _most_pixels(max_pixels)}
    numbers = frame_numbers(len(shown), count)
    if None in shown or len(set(shown)) < len(shown):
        frames = _by_number(context, packets, numbers)
    else:
        times = sorted(shown)
        if (times[-1] - times[0]) * stream.time_base > MAX_SECONDS:
            raise BadSample("too_long")
        frames = _by_time(context, packets, [times[number] for number in numbers])
    for frame in frames:
        _refuse_size(frame.width, frame.height, max_pixels)
        if frame.is_corrupt:
            raise BadSample("undecodable")
    return [frame.to_image(threads=1) for frame in frames]


def _refuse_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise BadSample("no_pixels")
    if width * height > max_pixels:
        raise BadSample("too_many_pixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("too_thin")


def _packets(opened: Any, stream: Any) -> list[Any]:
    """The stream's encoded frames in the order of decoding."""
    packets = []
    for packet in opened.demux(stream):
        if packet.is_corrupt:
            raise BadSample("truncated")
        # An empty one repeats a frame (AVI), or ends the stream.
        if packet.size:
            packets.append(packet)
        if len(packets) > MAX_FRAMES:
            raise BadSample("too_long")
    return packets


def _decoded(context: Any, packets: Sequence[Any], start: int) -> Iterator[tuple[int, Any]]:
    """Frames in the order of their times, each with the number of the packet it took."""
    for number in range(start, len(packets)):
        for frame in context.decode(packets[number]):
            yield number, frame
    for frame in context.decode(None):
        yield len(packets), frame


def _by_number(context: Any, packets: Sequence[Any], numbers: Sequence[int]) -> list[Any]:
    """Frames counted from the first one, for streams that do not tell their times."""
    wanted, found = set(numbers), {}
    for place, (_, frame) in enumerate(_decoded(context, packets, 0)):
        if place in wanted:
            found[place] = frame
        if len(found) == len(wanted):
            return [found[number] for number in numbers]
    raise BadSample("truncated")


def _by_time(context: Any, packets: Sequence[Any], times: Sequence[int]) -> list[Any]:
    """Frames of these times, which rise; what lies between two key frames is not decoded for
    nothing.

    A frame that starts before a key frame's time may need the one before: the last key frame that
    is not later than the time wanted is where decoding starts. A packet that shows nothing has
    the next frame in its place.
    """
    keys = [(packet.pts, n) for n, packet in enumerate(packets) if packet.is_keyframe]
    keys.sort()
    found, frame, place, running = [], None, -1, None
    for time in times:
        if frame is None or frame.pts < time:
            key = bisect_right(keys, (time, len(packets))) - 1
            start = keys[key][1] if key >= 0 else 0
            if running is None or start > place:
                context.flush_buffers()
                running = _decoded(context, packets, start)
            for decoded in running:
                place, frame = decoded
                if frame.pts is not None and frame.pts >= time:
                    break
            else:
                raise BadSample("truncated")
        found.append(frame)
    return found
