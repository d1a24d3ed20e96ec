"""Pairs a second from disk to batches: our loader, the original's, and webdataset's."""

import importlib.util
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench import original_loader
from bench.conftest import Compare
from bench.interleaved import Side, ratio
from bench.plan import Plan
from bench.record import Record
from engine.config import DataSection, ModelSection, RunConfig, TrainSection
from engine.data.loader import build_loader
from engine.data.open_source import open_source
from engine.data.shards import ShardWriter
from engine.data.tokenizer import open_tokenizer

WIDTH, HEIGHT, QUALITY, BATCH, MAX_TOKENS = 500, 375, 90, 16, 30
CAPTION = "A photo of the number {}, with some noise: it was found on the web!"


def photo(number: int) -> bytes:
    """A JPEG with structure at all scales, as a photograph has: about 80 kB."""
    generator = np.random.default_rng(number)
    total = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(1, 7):
        small = generator.random((2**octave, 2**octave, 3), np.float32) * 255
        image = Image.fromarray(small.astype(np.uint8)).resize((WIDTH, HEIGHT), 3)
        total += np.asarray(image, np.float32) / 2**octave
    total += generator.normal(0, 6, total.shape)
    content = io.BytesIO()
    pixels = np.clip(total, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(content, "JPEG", quality=QUALITY)
    return content.getvalue()


@pytest.fixture(scope="module")
def pairs_on_disk(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pairs as shards and as files with an annotation list."""
    folder, rows = tmp_path_factory.mktemp("pairs"), []
    (folder / "files").mkdir()
    count = max(plan.pictures, BATCH)
    with ShardWriter(folder / "shards", "pairs", max(1, count // 4)) as writer:
        for number in range(count):
            content, caption = photo(number), CAPTION.format(number)
            writer.add(f"{number:05d}", content, "jpg", caption, {"uid": str(number), "url": ""})
            path = folder / "files" / f"{number:05d}.jpg"
            path.write_bytes(content)
            rows.append({"image": str(path), "caption": caption})
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder


def test_pairs_a_second(compare: Compare, plan: Plan, record: Record, pairs_on_disk: Path) -> None:
    # One process on a CPU: the cost of a pair. Beside a GPU all cores load.
    workers = 0 if plan.hardware == "cpu" else len(os.sched_getaffinity(0))
    steps = max(plan.pictures, BATCH) // BATCH
    config = RunConfig(
        model=ModelSection(preset=plan.preset),
        data=DataSection(train=str(pairs_on_disk / "shards"), workers=workers),
        train=TrainSection(global_batch_size=BATCH, negative_group_size=BATCH),
    )
    size, shards = config.model.network().image_size, sorted(pairs_on_disk.rglob("*.tar"))
    tokenizer = open_tokenizer(None)

    def ours() -> int:
        source = open_source(config.data.train)
        spread = {"rank": 0, "world_size": 1, "start_step": 0, "stop_step": steps}
        return sum(len(batch) for batch in build_loader(config, source, tokenizer, **spread))

    def theirs(batches: Callable, place: object) -> int:
        loaded = batches(place, size, BATCH, workers)
        return sum(len(tokenizer.encode(texts, MAX_TOKENS)[0]) for _, texts in loaded)

    sides: dict[str, Side] = {
        "original": lambda: theirs(original_loader.original_batches, pairs_on_disk / "pairs.json"),
        "ours": ours,
    }
    if importlib.util.find_spec("webdataset") is None:
        record.note("webdataset is not installed: its loader is not compared")
    else:
        sides["webdataset"] = lambda: theirs(original_loader.webdataset_batches, shards)
    assert {side() for side in sides.values()} == {steps * BATCH}
    times = compare(f"loader, {steps * BATCH} pairs, {workers} workers", sides)
    total = [steps * BATCH] * plan.rounds
    record.figure(f"loader_pairs_per_second{plan.suffix}", ratio(total, times["ours"]))
    for peer in ("original", "webdataset"):
        if peer in times:
            faster = ratio(times[peer], times["ours"])
            record.figure(f"loader_ratio_{peer}{plan.suffix}", faster)
