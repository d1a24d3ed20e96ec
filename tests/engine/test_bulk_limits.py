"""Captions and features of many pictures keep to their pictures, and to the settings."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from blip_model import Blip
from engine.bulk.caption import caption_pictures
from engine.bulk.config import CaptionConfig, EmbedConfig
from engine.bulk.embed import embed
from engine.bulk.opened import opened
from engine.bulk.tables import table
from engine.capfilt.captioner import Captioner
from engine.capfilt.config import CaptionSection
from engine.config import ConfigError
from tests.shards import picture
from tests.tiny import spread, tiny_config, write_model

COUNT = 7


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, and a folder of seven pictures."""
    folder = tmp_path_factory.mktemp("limits")
    torch.manual_seed(0)
    model = Blip(tiny_config())
    spread(model)
    write_model(folder / "weights", model)
    (folder / "set").mkdir()
    for number in range(COUNT):
        (folder / "set" / f"{number}.png").write_bytes(picture(number))
    return folder


def settings(world: Path, **more: Any) -> dict[str, Any]:
    shared = {"model": str(world / "weights"), "device": "cpu", "precision": "fp32"}
    return {"pictures": [str(world / "set")], **shared, **more}


def test_captions_stay_with_their_pictures_however_long_they_take(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where captions of several batches end together, and none is let in between."""
    captions = Captioner.captions

    def at_once(self: Captioner, *given: object) -> Iterator[list[list[str]]]:
        yield from list(captions(self, *given))

    monkeypatch.setattr(Captioner, "captions", at_once)
    said: dict[int, list[str]] = {2: [], 64: []}
    caption = CaptionSection(max_length=14, min_length=5)
    for size, lines in said.items():
        how = settings(world, batch_size=size, caption=caption, seed=3)
        caption_pictures(CaptionConfig(**how), lines.append)
    names = [line.partition("\t")[0].rpartition("/")[2] for line in said[2]]
    assert names == [f"{number}.png" for number in range(COUNT)]
    assert said[2] == said[64]
    assert len({line.partition("\t")[2] for line in said[2]}) > 1


def features(world: Path, path: Path, texts: list[str], **limits: int) -> np.ndarray:
    how = settings(world, what="texts", texts=texts, output=str(path), **limits)
    embed(EmbedConfig(**how | {"pictures": []}))
    found = pq.read_table(path)
    assert found["text"].to_pylist() == texts
    return np.array(found["feature"].to_pylist(), np.float32)


@pytest.mark.parametrize("limits", [{"max_words": 3}, {"max_tokens": 5}])
def test_so_much_of_a_text_counts(world: Path, tmp_path: Path, limits: dict[str, int]) -> None:
    texts = ["red fox blue dog square", "red fox blue"]
    long, short = features(world, tmp_path / "short.parquet", texts, **limits)
    np.testing.assert_allclose(long, short, rtol=0, atol=1e-6)
    long, short = features(world, tmp_path / "long.parquet", texts)
    assert np.abs(long - short).max() > 1e-3


@pytest.mark.parametrize("limits", [{"max_words": 3}, {"max_tokens": 5}])
def test_so_much_of_a_text_is_scored(world: Path, tmp_path: Path, limits: dict[str, int]) -> None:
    texts = ["red fox blue dog square", "red fox blue"]
    differences = []
    for name, some in ("short", limits), ("long", {}):
        path = tmp_path / f"{name}.parquet"
        how = settings(world, what="pairs", texts=texts, output=str(path), **some)
        embed(EmbedConfig(**how))
        rows = pq.read_table(path).to_pylist()
        pairs = zip(rows[::2], rows[1::2], strict=True)
        differences.append(max(abs(a["itc_score"] - b["itc_score"]) for a, b in pairs))
    assert differences[0] < 1e-6 < 1e-4 < differences[1]


def test_larger_pictures_are_skipped(world: Path, tmp_path: Path) -> None:
    how = settings(world, output=str(tmp_path / "x.npy"), max_pixels=100)
    with pytest.raises(ConfigError, match=f"nothing usable: {COUNT} skipped"):
        embed(EmbedConfig(**how))


def test_a_model_is_opened_as_it_is_told(world: Path) -> None:
    network = tiny_config()
    size = network.image_size + network.patch_size
    blip = opened(CaptionConfig(**settings(world, image_size=size) | {"precision": "bf16"}))
    assert (blip.model.config.image_size, blip.precision) == (size, "bf16")
    with pytest.raises(ConfigError, match="nowhere"):
        opened(CaptionConfig(**settings(world, vocabulary=str(world / "nowhere"))))


def test_what_appeared_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    with (
        pytest.raises(ConfigError, match="appeared meanwhile"),
        table(path, pa.schema({"a": pa.string()})) as output,
    ):
        output.add([{"a": "b"}])
        path.write_text("another's")
    assert path.read_text() == "another's"
    assert [one.name for one in tmp_path.iterdir()] == ["x.jsonl"]
