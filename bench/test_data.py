"""Pairs a second from disk to batches: our loader, the original's, and webdataset's.

Photos of 500 x 375 pixels, as lists of the original's time hold them, and of 1,024 x 768.
"""

import importlib.util
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.conftest import Compare, Start
from bench.interleaved import ratio
from bench.loading import BATCH, original_program, our_program, webdataset_program
from bench.plan import Plan
from bench.record import Record
from bench.sides import Program
from engine.data.open_source import open_source
from engine.data.order import Order
from engine.data.shard_writer import ShardWriter

QUALITY = 90
# Different ones, which lie on the disk as often as there are pairs.
PHOTOS = 64
SIZES = {"": (500, 375), "_large": (1024, 768)}
CAPTION = "A photo of the number {}, with some noise: it was found on the web!"


def photo(number: int, width: int, height: int) -> bytes:
    """A JPEG with structure at all scales, as a photograph has."""
    generator = np.random.default_rng(number)
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 7):
        small = generator.random((2**octave, 2**octave, 3), np.float32) * 255
        image = Image.fromarray(small.astype(np.uint8)).resize((width, height), 3)
        total += np.asarray(image, np.float32) / 2**octave
    total += generator.normal(0, 6, total.shape)
    content = io.BytesIO()
    pixels = np.clip(total, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


def pairs_on_disk(folder: Path, count: int, width: int, height: int, workers: int = 0) -> Path:
    """The same pairs as shards, some for each worker, and as files with an annotation list."""
    # To make one takes as long as to load fifty.
    photos = [photo(number, width, height) for number in range(min(count, PHOTOS))]
    rows = []
    (folder / "files").mkdir()
    with ShardWriter(folder / "shards", "pairs", max(1, count // max(4, 2 * workers))) as writer:
        for number in range(count):
            content, caption = photos[number % PHOTOS], CAPTION.format(number)
            writer.add(f"{number:05d}", content, "jpg", caption, {"uid": str(number), "url": ""})
            path = folder / "files" / f"{number:05d}.jpg"
            path.write_bytes(content)
            rows.append({"image": str(path), "caption": caption})
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder


def is_there(peer: str, record: Record) -> bool:
    """Whether a peer is installed; the record says where it is not."""
    found = importlib.util.find_spec(peer) is not None
    if not found:
        record.note(f"{peer} is not installed: what needs it is not compared")
    return found


@pytest.mark.parametrize("name", SIZES)
def test_pairs_a_second(
    start: Start, compare: Compare, plan: Plan, record: Record, tmp_path: Path, name: str
) -> None:
    steps = max(plan.pictures, BATCH) // BATCH
    # One process on a CPU: the cost of a pair. Beside a GPU all cores load.
    workers = 0 if plan.hardware == "cpu" else len(os.sched_getaffinity(0))
    pairs = pairs_on_disk(tmp_path, steps * BATCH, *SIZES[name], workers)
    given = (pairs, plan.preset, workers)
    programs = [Program("ours", our_program, (*given, steps, plan.device))]
    if is_there("cv2", record):
        programs.append(Program("the original", original_program, given))
        if is_there("webdataset", record):
            programs.append(Program("webdataset", webdataset_program, given))
    sides = start(*programs)
    assert {side() for side in sides.values()} == {steps * BATCH}
    times = compare(f"loader{name}, {steps * BATCH} pairs, {workers} workers", sides)
    total = [steps * BATCH] * plan.rounds
    record.figure(f"loader_pairs_per_second{name}{plan.suffix}", ratio(total, times["ours"]))
    for peer in ("original", "webdataset"):
        if peer in times:
            faster = ratio(times[peer], times["ours"])
            record.figure(f"loader_ratio_{peer}{name}{plan.suffix}", faster)


def test_samples_a_second_before_decoding(
    compare: Compare, plan: Plan, record: Record, tmp_path: Path
) -> None:
    """Shuffled reading through the indexes, every hash checked, and webdataset's streaming."""
    if not (is_there("cv2", record) and is_there("webdataset", record)):
        pytest.skip("needs webdataset, and cv2 beside it")
    from bench import original_loader

    photos = [photo(number, *SIZES[""]) for number in range(8)]
    count = 32 * max(plan.pictures, BATCH)
    with ShardWriter(tmp_path, "pairs", count // 4) as writer:
        for number in range(count):
            facts = {"uid": str(number), "url": ""}
            writer.add(f"{number:05d}", photos[number % 8], "jpg", CAPTION.format(number), facts)
    shards = sorted(tmp_path.glob("*.tar"))

    def ours() -> int:
        source = open_source(str(tmp_path))
        order = Order(source.lengths, 0, len(shards))
        samples = (source.read(order.of_slot(slot)) for slot in range(count))
        return sum(sample.image is not None and len(sample.captions) for sample in samples)

    def webdataset() -> int:
        samples = original_loader.webdataset_samples(shards)
        return sum("jpg" in sample and "txt" in sample for sample in samples)

    assert ours() == webdataset() == count
    times = compare(f"reading, {count} samples", {"webdataset": webdataset, "ours": ours})
    name = f"reading_ratio_webdataset{plan.suffix}"
    record.figure(name, ratio(times["webdataset"], times["ours"]))
