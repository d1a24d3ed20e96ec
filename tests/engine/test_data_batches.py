"""Batches: bad samples keep their slot, workers and ranks change nothing."""

import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import connection, current_process, resource_sharer
from pathlib import Path

import pytest
import torch
import xxhash

from engine.config import ConfigError, DataSection, ModelSection, RunConfig, TrainSection
from engine.data.bad_samples import BadSampleLedger
from engine.data.loader import build_loader
from engine.data.micro_batches import MicroBatches, micro_batch_size
from engine.data.open_source import open_source
from engine.data.shard_writer import ShardWriter
from engine.data.tokenizer import open_tokenizer
from engine.training.signals import Interrupted
from tests.shards import bomb, caption, picture, write_shards

# Workers and ranks.
SPREADS = list(itertools.product((0, 1, 2, 4), (1, 2, 4)))
STEPS = 5


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


def steps(data: Path, workers: int, ranks: int, start: int = 0) -> Iterator[str]:
    """Hash of all that is in the global batch of every step up to the fifth, ranks side by side."""
    config, tokenizer = run_config(data, workers), open_tokenizer(None)
    config = replace(config, train=replace(config.train, negative_group_size=2))
    source, whole = open_source(config.data.train), {"start_step": start, "stop_step": STEPS}
    loaders = [
        build_loader(config, source, tokenizer, rank=rank, world_size=ranks, **whole)
        for rank in range(ranks)
    ]
    for parts in zip(*loaders, strict=True):
        state = xxhash.xxh3_128()
        for batch in parts:
            for row, (ids, mask) in enumerate(
                zip(batch.input_ids, batch.attention_mask, strict=True)
            ):
                # Padding goes as far as a rank's own texts.
                said = batch.key[row], batch.reason[row], int(batch.image_id[row])
                state.update(repr((*said, ids[mask.bool()].tolist())).encode())
                state.update(batch.image[row].numpy())
        yield state.hexdigest()


def until_killed(data: Path, workers: int, ranks: int, count: int) -> list[str]:
    """The first steps of a process that is then killed, with its workers, in the middle."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setsid()
            torch.set_num_threads(1)
            for number, digest in enumerate(steps(data, workers, ranks)):
                os.write(writing, f"{digest}\n".encode())
                if number == count:
                    signal.pause()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as said:
        found = [said.readline().strip() for _ in range(count)]
        os.killpg(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    return found


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Pairs, and the steps of one process without workers."""
    data = write_shards(tmp_path_factory.mktemp("data"), 30, per_shard=7)
    found = list(steps(data, 0, 1))
    assert len(set(found)) == STEPS
    return data, found


@pytest.mark.parametrize(
    "number", range(len(SPREADS)), ids=lambda n: "-".join(map(str, SPREADS[n]))
)
def test_a_seed_gives_the_same_batches_for_any_workers_and_ranks_before_and_after_a_kill(
    straight: tuple[Path, list[str]], number: int
) -> None:
    """0, 1, 2 and 4 workers by 1, 2 and 4 ranks; killed, the run goes on with other numbers."""
    data, expected = straight
    (workers, ranks), others = SPREADS[number], SPREADS[(number + 5) % len(SPREADS)]
    assert until_killed(data, workers, ranks, 2) == expected[:2]
    assert list(steps(data, *others, start=2)) == expected[2:]


def test_an_epoch_of_batches_holds_every_pair_once(tmp_path: Path) -> None:
    data = write_shards(tmp_path, 30, per_shard=7)
    _, keys, _ = global_batches(run_config(data), 1, 0, 6)
    assert sorted(keys[:30]) == [f"{n:05d}" for n in range(30)]


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
        (4, {}, r"would split negative groups of 4: .*negative_group_size \(2 fits\)"),
        (1, {"micro_batch_size": 2}, "would split negative groups"),
    ],
)
def test_batches_that_do_not_fit_are_refused(ranks: int, changes: dict, message: str) -> None:
    config = run_config(Path("unused"))
    config = replace(config, train=replace(config.train, **changes))
    with pytest.raises(ConfigError, match=message):
        micro_batch_size(config, ranks)


def test_the_limit_of_bad_samples_is_the_last_that_is_allowed() -> None:
    """Of the share, and of those in a row."""
    names, good = [f"{n}" for n in range(200)], [""] * 190
    ledger = BadSampleLedger(0.05)
    assert len(ledger.count(names, ["missing"] * 10 + good)) == 10
    with pytest.raises(ConfigError, match="11 of 200 samples are bad"):
        BadSampleLedger(0.05).count(names, ["missing"] * 11 + good[1:])
    ledger = BadSampleLedger(1.0)
    assert len(ledger.count(names[:99], ["missing"] * 99)) == 99
    with pytest.raises(ConfigError, match="100 of 100 samples are bad"):
        ledger.count(names[:1], ["missing"])


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_parts_of_all_ranks_side_by_side_are_in_slot_order(ranks: int) -> None:
    """However many micro-batches are accumulated."""
    loaders = [MicroBatches(16, 2, rank, ranks, 1, 3) for rank in range(ranks)]
    assert [len(loader) for loader in loaders] == [2 * 8 // ranks] * ranks
    slots = [slot for parts in zip(*loaders, strict=True) for part in parts for slot in part]
    assert slots == list(range(16, 48))
