"""The order in which batches are encoded, captioned and scored changes no text and no score."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import engine
from engine.capfilt.candidates import CaptionAndScore, ShardTexts
from engine.capfilt.captioner import Captioner
from engine.capfilt.config import CapFiltConfig, CaptionSection, PairsSection
from engine.data.shards import Shards
from tests.capfilt_runs import EACH, make_world
from tests.overwriting import Overwriting

SIZE = 2


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("candidates"))


def job(world: Path, **limits: int) -> CaptionAndScore:
    """By its own models, with limits of texts."""
    caption = CaptionSection(max_length=9, top_k=40)
    config = CapFiltConfig(
        captioner=str(world / "captioner"),
        filter=str(world / "filter"),
        batch_size=SIZE,
        caption=caption,
        data=PairsSection(train=str(world / "data"), workers=2, **limits),
    )
    models = [engine.load(world / name, device="cpu") for name in ("captioner", "filter")]
    return CaptionAndScore(config, *models)


def texts_of(world: Path, tick: Callable[[int], None] = lambda done: None) -> ShardTexts:
    """Of the first shard."""
    shards = Shards([sorted((world / "data").glob("*.tar"))[0]])
    return job(world)("pairs", shards, tick)


@pytest.mark.parametrize("together", [False, True])
def test_replays_that_write_over_what_they_gave(
    world: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """Also where captions of several batches end together, and none is let in between."""
    captions = Captioner.captions

    def at_once(self: Captioner, *given: object) -> Iterator[list[list[str]]]:
        yield from list(captions(self, *given))

    expected = texts_of(world)
    assert len(expected.pictures) == EACH > 2 * SIZE
    monkeypatch.setattr("engine.capfilt.encoder.Replayed", Overwriting)
    monkeypatch.setattr("blip_model.slots.Replayed", Overwriting)
    monkeypatch.setattr("blip_model.slots.runs_ahead", lambda device: True)
    if together:
        monkeypatch.setattr(Captioner, "captions", at_once)
    assert texts_of(world) == expected


def test_pictures_are_told_as_their_scores_come(world: Path) -> None:
    told: list[int] = []
    texts_of(world, told.append)
    assert told == list(range(SIZE, EACH + 1, SIZE))


def test_texts_are_scored_within_the_limits_of_the_run(world: Path) -> None:
    short = job(world, max_words=2, max_tokens=7)
    assert short._clean("A red fox jumps") == ("a red", "")
    assert short.filter.max_tokens == 7
