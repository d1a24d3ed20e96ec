"""Thumbnails of sampled pictures, as large and as good as their room in the page allows."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path

from PIL import Image

from engine.data.index import ShardError
from engine.data.shards import Shards
from engine.report.capfilt_folder import CapFiltFolder
from engine.report.capfilt_samples import SampledPicture
from engine.report.thumbnails import encoded, shrunk

# Pixels a side and WebP quality, best first.
STEPS = (
    (160, 80),
    (128, 76),
    (112, 72),
    (96, 66),
    (88, 58),
    (80, 52),
    (64, 46),
    (48, 40),
    (32, 30),
)
THREADS = 4
TRIED = 64
SAFETY = 1.03


def sample_thumbnails(
    folder: CapFiltFolder, inputs: dict[str, Path], sample: Sequence[SampledPicture], room: int
) -> list[str | None]:
    """A data URI for each sampled picture, None where it cannot be had; together at most `room`.

    Args:
        folder: the run; what it kept can be seen in its own shards where the input is gone.
        inputs: input shards by name.
        sample: pictures.
        room: characters.
    """
    images = _read(folder, inputs, sample)
    found = [number for number, image in enumerate(images) if image is not None]
    if not found:
        return [None] * len(sample)
    with ThreadPoolExecutor(THREADS) as pool:
        for step in range(_first_step(images, found, room), len(STEPS)):
            uris = list(pool.map(lambda image, s=step: _encode(image, *STEPS[s]), images))
            if sum(len(uri or "") for uri in uris) <= room:
                return uris
    # Noise compresses to nothing useful: the last ones go without.
    for number, uri in enumerate(uris):
        room -= len(uri or "")
        uris[number] = uri if room >= 0 else None
    return uris


def _first_step(images: Sequence[Image.Image | None], found: list[int], room: int) -> int:
    """The best step that a part of the pictures fits in."""
    tried = found[:: -(-len(found) // TRIED)]
    for step, (side, quality) in enumerate(STEPS):
        size = sum(len(_encode(images[number], side, quality) or "") for number in tried)
        if size * len(found) / len(tried) * SAFETY <= room:
            return step
    return len(STEPS) - 1


def _encode(image: Image.Image | None, side: int, quality: int) -> str | None:
    if image is None:
        return None
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return encoded(image, quality)


def _read(
    folder: CapFiltFolder, inputs: dict[str, Path], sample: Sequence[SampledPicture]
) -> list[Image.Image | None]:
    """The pictures, small enough to hold all of them in memory."""
    side = STEPS[0][0] if len(sample) <= 400 else STEPS[2][0]
    images: list[Image.Image | None] = [None] * len(sample)
    problems: list[str] = []
    order = sorted(range(len(sample)), key=lambda n: sample[n].shard)
    with ThreadPoolExecutor(THREADS) as pool:
        for name, group in groupby(order, key=lambda n: sample[n].shard):
            wanted = list(group)
            for path in (inputs.get(name), folder.root / "shards" / f"{name}.tar"):
                missing = [number for number in wanted if images[number] is None]
                if path is None or not missing or not path.is_file():
                    continue
                try:
                    shards = Shards([path])
                except (ShardError, OSError) as error:
                    problems.append(str(error))
                    continue
                places = {key.as_py(): row for row, key in enumerate(shards.index(0).keys)}
                jobs = [(shards, places.get(sample[n].key), side) for n in missing]
                for number, image in zip(missing, pool.map(_one, jobs), strict=True):
                    images[number] = image
    if problems:
        folder.notes.append(f"Pictures of {len(problems)} shards cannot be read: {problems[0]}")
    return images


def _one(job: tuple[Shards, int | None, int]) -> Image.Image | None:
    shards, row, side = job
    if row is None:
        return None
    try:
        parts, problem = shards.members(row)
    except OSError:
        return None
    return None if problem else shrunk(parts["image"], side)
