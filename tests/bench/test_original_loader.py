"""The rendering of the original's loader gives what ours is compared with."""

import json
from pathlib import Path

import pytest
import torch

from bench.original_loader import clean, original_batches
from engine.data import augment as ours
from engine.data.captions import clean_caption
from tests.shards import caption, picture

TEXTS = [
    "A photo of THE dog.",
    'He said: "look!" (really) ~ #1; *wow*',
    "  many   spaces ",
    "word " * 40,
]


@pytest.mark.parametrize("text", TEXTS)
def test_captions_are_cleaned_alike(text: str) -> None:
    assert clean(text) == clean_caption(text, 30)


def test_batches_have_our_shape_and_scale(tmp_path: Path) -> None:
    rows = []
    for number in range(10):
        path = tmp_path / f"{number}.png"
        path.write_bytes(picture(number, 64))
        rows.append({"image": str(path), "caption": caption(number)})
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    batches = list(original_batches(tmp_path / "pairs.json", 32, 4, 0))
    assert len(batches) == 2
    darkest, lightest = (
        torch.from_numpy((value - ours.MEAN) / ours.STD).view(3, 1, 1) for value in (0.0, 1.0)
    )
    for images, captions in batches:
        assert images.shape == (4, 3, 32, 32) and images.dtype == torch.float32
        assert (images >= darkest - 1e-4).all() and (images <= lightest + 1e-4).all()
        assert set(captions) <= {clean(row["caption"]) for row in rows}
