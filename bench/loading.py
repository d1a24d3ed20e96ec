"""Pairs from disk to batches by the programs that load them: ours, the original's, webdataset's."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from bench.interleaved import Side
from blip_model.config import preset
from engine.config import DataSection, ModelSection, RunConfig, TrainSection
from engine.data.augment import normalised
from engine.data.loader import build_loader
from engine.data.open_source import open_source
from engine.data.tokenizer import open_tokenizer
from engine.runtime import start_apart

BATCH, MAX_TOKENS = 16, 30
Loaded = Iterable[tuple[torch.Tensor, list[str]]]


def our_program(
    pairs: Path, name: str, workers: int, steps: int, device: torch.device
) -> dict[str, Side]:
    """Our loader over the shards of a folder: so many batches a call, and how many pairs came."""
    # As a run begins; on a CPU it keeps freed memory from here on.
    start_apart(device.type)
    config = RunConfig(
        model=ModelSection(preset=name),
        data=DataSection(train=str(pairs / "shards"), workers=workers),
        train=TrainSection(global_batch_size=BATCH, negative_group_size=BATCH),
    )
    tokenizer = open_tokenizer(None)

    def load() -> int:
        source = open_source(config.data.train)
        spread = {"rank": 0, "world_size": 1, "start_step": 0, "stop_step": steps}
        batches = build_loader(config, source, tokenizer, **spread)
        # What training does on the device belongs to what the others' loaders do. A picture that
        # another one stands for is none.
        return sum(len(normalised(batch.image)) - sum(map(bool, batch.reason)) for batch in batches)

    return {"ours": load}


def original_program(pairs: Path, name: str, workers: int) -> dict[str, Side]:
    """The original's loader over the annotation list of a folder."""
    from bench.original_loader import original_batches

    return {"original": _theirs(original_batches, pairs / "pairs.json", name, workers)}


def webdataset_program(pairs: Path, name: str, workers: int) -> dict[str, Side]:
    """webdataset's usual pipeline over the shards of a folder."""
    from bench.original_loader import webdataset_batches

    shards = sorted(pairs.rglob("*.tar"))
    return {"webdataset": _theirs(webdataset_batches, shards, name, workers)}


def _theirs(batches: Callable[..., Loaded], place: object, name: str, workers: int) -> Side:
    """The original tokenizes in the model: it belongs to what ours does."""
    tokenizer, size = open_tokenizer(None), preset(name).image_size

    def load() -> int:
        loaded = batches(place, size, BATCH, workers)
        return sum(len(tokenizer.encode(texts, MAX_TOKENS)[0]) for _, texts in loaded)

    return load
