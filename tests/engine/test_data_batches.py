"""Batches: bad samples keep their slot, workers and ranks change nothing."""

from dataclasses import replace
from multiprocessing import connection, current_process, resource_sharer
from pathlib import Path

import pytest
import torch

from engine.config import ConfigError, DataSection, ModelSection, RunConfig, TrainSection
from engine.data.bad_samples import BadSampleLedger
from engine.data.loader import build_loader, micro_batch_size
from engine.data.open_source import open_source
from engine.data.shards import ShardWriter
from engine.data.tokenizer import open_tokenizer
from engine.training.signals import Interrupted
from tests.shards import bomb, caption, picture, write_shards


def run_config(data: Path, workers: int = 0, **changes: object) -> RunConfig:
    """A tiny run on `data`."""
    return RunConfig(
        model=ModelSection(preset="tiny"),
        data=replace(DataSection(train=str(data), workers=workers), **changes),
        train=TrainSection(global_batch_size=8, negative_group_size=4),
    )


def global_batches(config: RunConfig, ranks: int, start: int, stop: int) -> tuple:
    """All pictures and keys of some steps, ranks side by side."""
    source, tokenizer = open_source(config.data.train), open_tokenizer(None)
    loaders = [
        build_loader(
            config,
            source,
            tokenizer,
            rank=rank,
            world_size=ranks,
            start_step=start,
            stop_step=stop,
        )
        for rank in range(ranks)
    ]
    batches = [batch for parts in zip(*loaders, strict=True) for batch in parts]
    images = torch.cat([batch.image for batch in batches])
    reasons = [reason for batch in batches for reason in batch.reason]
    return images, [key for batch in batches for key in batch.key], reasons


def test_workers_and_ranks_do_not_change_the_global_batches(tmp_path: Path) -> None:
    data = write_shards(tmp_path, 30, per_shard=7)
    images, keys, _ = global_batches(run_config(data), 1, 0, 6)
    assert sorted(keys[:30]) == [f"{n:05d}" for n in range(30)]
    for workers, ranks in ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2)):
        other_images, other_keys, _ = global_batches(run_config(data, workers), ranks, 0, 6)
        assert other_keys == keys
        assert torch.equal(other_images, images)
    later_images, later_keys, _ = global_batches(run_config(data), 1, 4, 6)
    assert later_keys == keys[32:]
    assert torch.equal(later_images, images[32:])


def test_a_batch_that_nobody_takes_is_no_error_of_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A signal comes while pixels are handed over, from a socket of the worker's."""
    config, met = run_config(write_shards(tmp_path, 8), workers=1), []

    def interrupted(place: tuple[str, int]) -> None:
        met.append(place)
        connection.SocketClient(place[0]).close()
        raise Interrupted

    monkeypatch.setattr(resource_sharer._resource_sharer, "get_connection", interrupted)
    where = {"rank": 0, "world_size": 1, "start_step": 0, "stop_step": 1}
    source, tokenizer = open_source(config.data.train), open_tokenizer(None)
    batches = iter(build_loader(config, source, tokenizer, **where))
    with pytest.raises(Interrupted):
        next(batches)
    # It answers one after the other: the next is told after it has noticed.
    connection.Client(met[0][0], authkey=current_process().authkey).close()
    assert "Traceback" not in capfd.readouterr().err


def test_bad_samples_keep_their_slot_and_are_counted(tmp_path: Path) -> None:
    bad = {
        3: (b"", "x"),
        8: (picture(8)[: len(picture(8)) // 2], "x"),
        11: (picture(11), "..."),
        14: (bomb(9999, 9999), "x"),
    }
    with ShardWriter(tmp_path, "pairs", 50) as writer:
        for number in range(20):
            content, text = bad.get(number, (picture(number), caption(number)))
            writer.add(f"{number:05d}", content, "png", text, {})
    config = run_config(tmp_path)
    images, keys, reasons = global_batches(config, 1, 0, 5)
    assert images.shape[0] == 40
    found = {key: reason for key, reason in zip(keys, reasons, strict=True) if reason}
    assert found == {
        "00003": "empty",
        "00008": "truncated",
        "00011": "empty_caption",
        "00014": "too_many_pixels",
    }
    again, _, _ = global_batches(config, 2, 0, 5)
    assert torch.equal(images, again)


def test_too_many_bad_samples_stop_the_run_with_the_reasons(tmp_path: Path) -> None:
    data = write_shards(tmp_path, 16)
    source, tokenizer = open_source(str(data)), open_tokenizer(None)
    config = run_config(data)
    (batch,) = build_loader(
        config, source, tokenizer, rank=0, world_size=1, start_step=0, stop_step=1
    )
    one_bad = replace(batch, reason=["truncated"] + [""] * 7)
    ledger = BadSampleLedger(0.05)
    with pytest.raises(ConfigError, match=r"25 of 200 samples are bad \(25 truncated\)"):
        for _ in range(26):
            ledger.add(one_bad)
    ledger = BadSampleLedger(1.0)
    all_bad = replace(batch, reason=["missing"] * 8)
    with pytest.raises(ConfigError, match="104 missing"):
        for _ in range(14):
            ledger.add(all_bad)


@pytest.mark.parametrize(
    ("ranks", "changes", "message"),
    [
        (3, {}, "not a multiple of 3 ranks"),
        (4, {}, "would split negative groups of 4"),
        (1, {"micro_batch_size": 2}, "would split negative groups"),
    ],
)
def test_batches_that_do_not_fit_are_refused(ranks: int, changes: dict, message: str) -> None:
    config = run_config(Path("unused"))
    config = replace(config, train=replace(config.train, **changes))
    with pytest.raises(ConfigError, match=message):
        micro_batch_size(config, ranks)
