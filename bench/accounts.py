"""Where every sample of a shard went: through the engine's loader, and through Python's tarfile."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import torch

from engine.config import ConfigError, DataSection, ModelSection, RunConfig, TrainSection
from engine.data.index import key_of
from engine.data.loader import build_loader
from engine.data.open_source import open_source
from engine.data.source import Source
from engine.data.tokenizer import Tokenizer

# A slot as it was learned from: why it was replaced, or its picture and its tokens.
Slot = tuple[str, torch.Tensor, list[int]]


def epoch(shard: Path, count: int, tokenizer: Tokenizer) -> list[tuple[str, Slot]] | str:
    """Key and content of every slot of an epoch, or why the shard is refused.

    Args:
        shard: of so many samples.
        count: samples in it, all of one batch.
        tokenizer: of captions.
    """
    try:
        source = open_source(str(shard))
        (batch,) = build_loader(
            one_batch(shard, count), source, tokenizer, rank=0, world_size=1, start_step=0,
            stop_step=1,
        )  # fmt: skip
    except ConfigError as error:
        return str(error)
    rows = zip(batch.reason, batch.image, batch.input_ids, batch.attention_mask, strict=True)
    slots = [(reason, image, ids[mask.bool()].tolist()) for reason, image, ids, mask in rows]
    return list(zip(batch.key, slots, strict=True))


def one_batch(shard: Path, count: int) -> RunConfig:
    """A run whose batch holds all samples of a shard."""
    return RunConfig(
        model=ModelSection(preset="tiny"),
        data=DataSection(train=str(shard), workers=0),
        train=TrainSection(global_batch_size=count, negative_group_size=count),
    )


def unaccounted(
    whole: list[tuple[str, Slot]], found: list[tuple[str, Slot]] | str, shard: Path
) -> int:
    """Samples that are neither read as they were nor named with a reason.

    Args:
        whole: the epoch before the damage.
        found: the same after it, or why it was refused: that must name the shard.
        shard: that was damaged.
    """
    if isinstance(found, str):
        return 0 if str(shard) in found else len(whole)
    lost = [key for key, _ in whole]
    for key, (reason, image, ids) in found:
        expected = dict(whole).get(key)
        same = expected and torch.equal(image, expected[1]) and ids == expected[2]
        if key in lost and (reason or same):
            lost.remove(key)
    return len(lost)


def contents(source: Source) -> dict[str, tuple[bytes | None, bytes | None]]:
    """Picture and caption of every sample, by key."""
    samples = (source.read(number) for number in range(len(source)))
    return {one.key: (one.image, str(one.captions[0]).encode()) for one in samples}


def unaccounted_by_tarfile(shard: Path, whole: dict[str, tuple[bytes | None, bytes | None]]) -> int:
    """The same of what reads the archive as a stream, as most loaders do; an error counts as said.

    Args:
        shard: damaged.
        whole: what was in it.
    """
    found: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(shard, "r|") as tar:
            for member in tar:
                key, suffix = key_of(member.name)
                file = tar.extractfile(member)
                found.setdefault(key, {})[suffix] = file.read() if file else b""
    except (OSError, tarfile.TarError):
        return 0
    parts = {key: (one.get("png"), one.get("txt")) for key, one in found.items()}
    return sum(parts.get(key) != content for key, content in whole.items())


def crashes(work: Callable[[], object], allowed: type[Exception]) -> int:
    """1 where it raises anything but what it may raise."""
    try:
        work()
    except allowed:
        return 0
    except Exception:  # noqa: BLE001 - whatever it is, it is counted
        return 1
    return 0
