"""Batches whose views a device makes: the same slots, substitutes and reasons, nearly the pixels.

On a GPU where there is one: the runs' device is `auto`. Without one torchvision's part of them
decodes by simplejpeg.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.config import RunConfig
from engine.curriculum import CurriculumStage
from engine.data import decoders, loader
from engine.data.batch import Batch
from engine.data.decoders import ON_DEVICE
from engine.data.loader import Slots, build_loader
from engine.data.open_source import open_source
from engine.data.planned_view import PlannedView, PlannedViews, plan
from engine.data.shard_writer import ShardWriter
from engine.data.tokenizer import open_tokenizer
from engine.data.torchvision_views import TorchvisionViews
from engine.data.view_maker import ViewMaker
from tests.engine.test_dali import rounds
from tests.engine.test_data_batches import run_config
from tests.engine.test_fast_view import GOOD, encoded, photo
from tests.engine.test_torchvision_views import by_simplejpeg
from tests.forked import run, start, succeed
from tests.runs import losses, weights, write_config
from tests.shards import caption, picture

COUNT = 24


def contents() -> list[bytes]:
    """JPEGs of several sizes; every sixth is something that the host decodes."""
    photos = [encoded(photo(60 + 9 * n, 90 - 2 * n, n % 3)) for n in range(COUNT)]
    for number in range(5, COUNT, 6):
        grey = encoded(photo(50, 40).convert("L"))
        photos[number] = picture(number) if number % 12 == 5 else grey
    return photos


def write_photos(folder: Path, changed: dict[int, bytes] | None = None) -> Path:
    """Shards of `contents()`, some of them changed."""
    with ShardWriter(folder, "pairs", 10) as writer:
        for number, content in enumerate(contents()):
            content = (changed or {}).get(number, content)
            form = "png" if content[:4] == b"\x89PNG" else "jpg"
            facts = {"uid": f"uid-{number}", "url": ""}
            writer.add(f"{number:05d}", content, form, caption(number), facts)
    return folder


def loaded(config: RunConfig, ranks: int = 1, steps: tuple[int, int] = (0, 6)) -> list[Batch]:
    """Batches in slot order, ranks side by side."""
    source, tokenizer = open_source(config.data.train), open_tokenizer(None)
    place = {"world_size": ranks, "start_step": steps[0], "stop_step": steps[1]}
    loaders = [build_loader(config, source, tokenizer, rank=r, **place) for r in range(ranks)]
    batches = [batch for parts in zip(*loaders, strict=True) for batch in parts]
    assert all(batch.planned is None and batch.image.is_contiguous() for batch in batches)
    return batches


def images(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.image.cpu() for batch in batches])


def named(batches: list[Batch]) -> list[tuple[str, str]]:
    """Key and reason of every slot."""
    return [pair for batch in batches for pair in zip(batch.key, batch.reason, strict=True)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(params=ON_DEVICE)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "torchvision" and torch.cuda.is_available():
        if not TorchvisionViews.is_installed():
            pytest.skip("torchvision is not installed")
    elif request.param == "torchvision":
        monkeypatch.setattr(TorchvisionViews, "is_installed", lambda: True)
        monkeypatch.setattr(TorchvisionViews, "decode", staticmethod(by_simplejpeg))
    decoders._tried.cache_clear()
    yield request.param
    decoders._tried.cache_clear()


def test_the_same_slots_as_pillows_and_nearly_the_pixels(photos: Path, decoder: str) -> None:
    """`test_dali` has the tolerances; where the host decodes, there are none. Views are larger than
    the tiny preset's: equalisation divides by a 255th of their pixels in whole numbers, and of so
    few pixels that number jumps."""
    settings = run_config(photos, fast_views=False)
    settings = replace(settings, model=replace(settings.model, image_size=96))
    there, here = (
        loaded(replace(settings, data=replace(settings.data, jpeg_decoder=name)), steps=(0, 3))
        for name in (decoder, "pillow")
    )
    assert named(there) == named(here)
    for one, other in zip(there, here, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert torch.equal(one.image_id, other.image_id)
    apart = (images(there).float() - images(here).float()).abs()
    most = rounds(there[0].image.device)
    assert apart.mean((1, 2, 3)).max() < 4 * most
    assert apart.mean() < 0.5 * most
    assert (apart > most).float().mean() < 0.05
    untouched = (images(there) == images(here)).flatten(1).all(1)
    by_host = {f"{number:05d}" for number in range(5, COUNT, 6)}
    keys = [key for key, _ in named(there)]
    assert all(same for key, same in zip(keys, untouched.tolist(), strict=True) if key in by_host)
    # After simplejpeg's decoder, torchvision's way gives the definition's bytes.
    exact = decoder == "torchvision" and there[0].image.device.type == "cpu"
    assert untouched.all() == exact


def test_workers_ranks_and_a_later_start_change_no_bit(photos: Path, decoder: str) -> None:
    config = run_config(photos, jpeg_decoder=decoder)
    whole = loaded(config)
    for workers, ranks in ((0, 2), (2, 1)):
        other = loaded(replace(config, data=replace(config.data, workers=workers)), ranks)
        assert named(other) == named(whole)
        assert torch.equal(images(other), images(whole))
    later = loaded(config, steps=(4, 6))
    assert named(later) == named(whole)[32:]
    assert torch.equal(images(later), images(whole)[32:])


def test_sizes_change_with_their_steps(photos: Path, decoder: str) -> None:
    stages = [CurriculumStage(until_step=2, image_size=16), CurriculumStage(until_step=3)]
    config = run_config(photos, jpeg_decoder=decoder, curriculum=stages)
    batches = loaded(config, steps=(0, 4))
    assert [batch.image.shape[-1] for batch in batches] == [16, 16, 32, 32]
    assert torch.equal(images(batches[2:]), images(loaded(config, steps=(2, 4))))


def with_a_broken_table() -> bytes:
    """Whole from segment to segment; its first Huffman table has more codes than fit."""
    counts = GOOD.index(b"\xff\xc4\x00\x1f\x00") + 5
    return GOOD[:counts] + b"\xff\xff" + GOOD[counts + 2 :]


# Cut off, no picture, empty, and one that looks whole and is not.
BAD = {2: GOOD[: len(GOOD) // 2], 7: b"<html>", 12: b"", 16: with_a_broken_table()}


def test_bad_pictures_are_substituted_as_ever_and_their_neighbours_stay(
    photos: Path, tmp_path: Path, decoder: str
) -> None:
    data = write_photos(tmp_path, BAD)
    found = loaded(run_config(data, fast_views=False, jpeg_decoder=decoder))
    expected = loaded(run_config(data, fast_views=False, jpeg_decoder="pillow"))
    assert named(found) == named(expected)
    reasons = {key: reason for key, reason in named(found) if reason}
    assert reasons == {
        "00002": "truncated",
        "00007": "wrong_format",
        "00012": "empty",
        "00016": "undecodable",
    }
    good = loaded(run_config(photos, fast_views=False, jpeg_decoder=decoder))
    stayed = torch.tensor([not reason for _, reason in named(found)])
    assert torch.equal(images(found)[stayed], images(good)[stayed])
    assert not torch.equal(images(found)[~stayed], images(good)[~stayed])


def test_the_broken_table_looks_whole(photos: Path) -> None:
    augmentation = Slots(run_config(photos), open_source(str(photos))).augmentation(0)
    assert plan(BAD[16], 10**6, augmentation, loader.Draws(0)) is not None


def test_what_only_the_device_cannot_decode_goes_the_hosts_way(
    photos: Path,
    decoder: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As a GPU's decoder may refuse what the definition takes: two of these pictures, in whatever
    batch they are, and batches behind them are under way."""
    config = run_config(photos, fast_views=False, jpeg_decoder=decoder)
    good = loaded(config)
    refused = [contents()[3], contents()[8]]

    def planned(content: bytes | None, *settings: object) -> PlannedView | None:
        found = plan(content, *settings)
        return replace(found, content=BAD[16]) if content in refused else found

    monkeypatch.setattr(loader, "plan", planned)
    batches = loaded(config)
    assert named(batches) == named(good)
    by_host = torch.tensor([key in ("00003", "00008") for key, _ in named(batches)])
    assert torch.equal(images(batches)[~by_host], images(good)[~by_host])
    pillow = loaded(run_config(photos, fast_views=False, jpeg_decoder="pillow"))
    assert torch.equal(images(batches)[by_host], images(pillow)[by_host])
    assert len([line for line in caplog.messages if "did not decode" in line]) == 1


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_that_is_seen_when_a_batch_starts_costs_nothing(
    photos: Path, decoder: str, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """DALI fails while it decodes, and says so at the first call behind that, which may be the next
    batch's start. torchvision does at once."""
    config = run_config(photos, fast_views=False, jpeg_decoder=decoder)
    good, starts = loaded(config), []

    def start_or_fail(maker: ViewMaker, planned: PlannedViews) -> None:
        # But for a maker's trial and pictures that are tried alone.
        if len(planned) > 1:
            starts.append(planned)
        if len(planned) > 1 and len(starts) == failing:
            raise RuntimeError("the pipeline is no longer valid")
        start_views(maker, planned)

    kind = ON_DEVICE[decoder]
    start_views = kind.start
    monkeypatch.setattr(kind, "start", start_or_fail)
    batches = loaded(config)
    assert len(starts) > len(good)
    assert named(batches) == named(good)
    assert torch.equal(images(batches), images(good))


@pytest.mark.slow
@pytest.mark.xdist_group("resume")
def test_a_killed_run_continues_to_the_same_weights(photos: Path, tmp_path: Path) -> None:
    settings = {"checkpoint": {"every": 1}, "train": {"max_steps": 9}}
    names, words = ("whole", "killed"), {}
    for name in names:
        path = write_config(tmp_path, name, photos, **settings)
        words[name] = ["--config", path, "--data.jpeg_decoder", "dali"]
    succeed("launch.pretrain", words["whole"], tmp_path / "log")
    (process,) = start("launch.pretrain", words["killed"], tmp_path / "log")
    process.until((tmp_path / "killed" / "checkpoints" / "step_00000002").exists)
    process.process.kill()
    process.process.join()
    (ended,) = run("launch.pretrain", words["killed"], tmp_path / "log")
    # Where it was done before it was killed, there was nothing to continue, which is no fault.
    assert ended[0] == 0, ended[1]
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    expected, found = (weights(tmp_path / name, 9) for name in names)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
