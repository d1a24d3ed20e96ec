"""A loaded model with more pictures than a batch: folders, lists, iterators."""

import io
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import engine
from engine import progress
from engine.config import ConfigError
from engine.data.picture_files import printable
from engine.inference import LoadedBlip
from engine.pictures import ahead, find_pictures, view_batches
from tests.loaded import loaded_blip
from tests.shards import bomb, caption, picture

pytestmark = pytest.mark.xdist_group("inference")
PICTURES = [picture(number) for number in (0, 20, 5, 10, 15)]
TEXTS = [caption(number) + " very" * (number % 4) for number in (0, 1, 6, 11, 15)]


@pytest.fixture(scope="module")
def blip() -> LoadedBlip:
    return loaded_blip()


@pytest.fixture(scope="module")
def one_by_one(blip: LoadedBlip) -> list[dict[str, Any]]:
    """A call for each picture and text alone."""
    return [answers(blip, [one], [text], 1) for one, text in zip(PICTURES, TEXTS, strict=True)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in folders, with what is no picture and odd names beside them."""
    for number, name in enumerate(
        ["b.png", "a/z.PNG", "a/line\nend\t.png", "c.jpg", "a/é \\.webp"]
    ):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        form = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}[path.suffix.lower()]
        path.write_bytes(picture(number, form=form))
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    (tmp_path / "set" / ".hidden.png").write_bytes(b"")
    (tmp_path / "set" / ".git").mkdir()
    (tmp_path / "set" / ".git" / "x.png").write_bytes(b"")
    (tmp_path / "set" / "folder.png").mkdir()
    return tmp_path / "set"


def answers(blip: LoadedBlip, pictures: list, texts: list, size: int, form: Any = list) -> dict:
    """Everything the model can be asked for."""
    settings = {"batch_size": size}
    return {
        "captions": blip.caption(form(pictures), max_length=9, **settings),
        "images": blip.embed_images(form(pictures), **settings),
        "texts": blip.embed_texts(form(texts), **settings),
        "matches": blip.match(form(pictures), form(texts), **settings),
    }


@pytest.mark.parametrize("form", [list, iter])
@pytest.mark.parametrize("size", [2, 50])
def test_batches_change_nothing(
    blip: LoadedBlip, one_by_one: list[dict[str, Any]], size: int, form: Any
) -> None:
    found = answers(blip, PICTURES, TEXTS, size, form)
    assert found["captions"] == [one["captions"][0] for one in one_by_one]
    assert len(set(found["captions"])) > 1
    for name in ("images", "texts", "matches"):
        alone = torch.cat([one[name] for one in one_by_one])
        assert alone.std(0).max() > 1e-4
        torch.testing.assert_close(found[name], alone, rtol=0, atol=1e-5)


def test_samples_go_on_from_batch_to_batch(blip: LoadedBlip) -> None:
    def sampled(size: int) -> list[str]:
        settings = {"top_p": 0.9, "max_length": 9, "batch_size": size}
        return blip.caption(PICTURES, generator=torch.Generator().manual_seed(3), **settings)

    assert sampled(2) == sampled(50)
    assert len(set(sampled(2))) == len(PICTURES)


@pytest.mark.parametrize("size", [2, 50])
def test_one_against_many(blip: LoadedBlip, size: int) -> None:
    for mine in (PICTURES[1], Image.open(io.BytesIO(PICTURES[1]))):
        found = blip.match(mine, TEXTS, batch_size=size)
        expected = blip.match([PICTURES[1]] * len(TEXTS), TEXTS)
        assert expected.std() > 1e-4
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    expected = blip.match(PICTURES, [TEXTS[2]] * len(PICTURES))
    for several in (PICTURES, iter(PICTURES)):
        found = blip.match(several, TEXTS[2], batch_size=size)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_folder_stands_for_its_pictures(blip: LoadedBlip, folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path in engine.find_pictures(folder)]
    assert names == ["a/line\nend\t.png", "a/z.PNG", "a/é \\.webp", "b.png", "c.jpg"]
    expected = blip.embed_images(find_pictures(folder))
    assert torch.equal(blip.embed_images(str(folder)), expected)
    both = blip.embed_images([folder / "b.png", folder], batch_size=2)
    torch.testing.assert_close(both[1:], expected, rtol=0, atol=1e-6)
    assert blip.match(folder, "a dog").shape == (5,)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "empty: no picture in it (.jpg, .jpeg, .png, .webp)"),
        ("notes.txt", "notes.txt: not a usable picture: wrong_format"),
        ("x\n\ty.png", "x\\n\\ty.png: No such file or directory"),
        ("bad.png", "bad.png: not a usable picture: wrong_format"),
        ("thin.png", "thin.png: not a usable picture: too_thin"),
        ("wide.png", "wide.png: not a usable picture: too_many_pixels"),
        ("n" * 300, "File name too long"),
        ("nul\0.png", "nul\\x00.png: not a usable picture: embedded null byte"),
    ],
)
def test_the_bad_one_is_named(blip: LoadedBlip, folder: Path, name: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "bad.png").write_text("a picture that is text")
    Image.new("1", (50_000, 2)).save(folder / "thin.png")
    (folder / "wide.png").write_bytes(bomb(50_000, 2_600))
    with pytest.raises(ConfigError) as problem:
        blip.embed_images([folder / "b.png", PICTURES[0], folder / name], batch_size=2)
    assert message in str(problem.value) and str(problem.value).isprintable()
    if name == "bad.png":
        assert "; leave it out: launch/caption.py and launch/embed.py name bad" in str(
            problem.value
        )
        with pytest.raises(ConfigError, match="wrong_format[^;]*$"):
            blip.embed_images(folder / name)


def test_one_without_a_name_is_numbered(blip: LoadedBlip) -> None:
    pictures = [picture(0), picture(1), np.zeros((4, 4, 3), np.float64), picture(2)]
    for given in (pictures, iter(pictures)):
        with pytest.raises(ConfigError, match=r"^images\[2\], a ndarray: not a usable picture: "):
            blip.embed_images(given)
    with pytest.raises(ConfigError, match=r"texts\[1\], ' \.! ': it has no words"):
        blip.embed_texts(["a dog", " .! "])
    with pytest.raises(ConfigError, match="no picture given"):
        blip.embed_images(iter([]))
    with pytest.raises(ConfigError, match="batch_size is 0: must be at least 1"):
        blip.embed_images(pictures, batch_size=0)


def test_one_object_many_times_and_late_pixels(blip: LoadedBlip, folder: Path) -> None:
    """Threads meet in one opened file."""
    image = Image.open(folder / "c.jpg")
    found = blip.embed_images([image] * 40, batch_size=40)
    torch.testing.assert_close(found, blip.embed_images(folder / "c.jpg").expand(40, -1))


def test_few_pictures_are_decoded_at_once() -> None:
    """However many are given: what was yielded is not kept, and little is read ahead."""
    opened: list[weakref.ref] = []

    def images() -> Iterator[Image.Image]:
        for number in range(100):
            image = Image.new("RGB", (40, 40), (number, 0, 0))
            opened.append(weakref.ref(image))
            yield image

    done = 0
    for views in view_batches(images(), 16, 4, torch.device("cpu")):
        done += len(views)
        assert len(opened) <= done + 5
        assert sum(ref() is not None for ref in opened) <= 10
    assert done == 100


def test_work_ahead_keeps_its_order_and_stops() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        if number == 5:
            raise ConfigError("five")
        return number

    found = ahead(work, range(1000), depth=3)
    assert [next(found) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ConfigError, match="five"):
        next(found)
    assert len(started) < 20


def test_long_work_says_how_far_it_is(
    blip: LoadedBlip, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = [picture(n) for n in range(4)]
    blip.embed_images(pictures, batch_size=2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    blip.embed_images(pictures, batch_size=2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("embedded 2 of 4 pictures, ") and lines[0].endswith(" left")
    assert lines[1].startswith("embedded 4 of 4 pictures, ") and "0:00:00 left" in lines[1]
    blip.embed_images(iter(pictures), batch_size=3)
    assert capsys.readouterr().err.startswith("embedded 3 pictures, ")
    blip.progress = False
    blip.embed_images(pictures)
    blip.progress = True
    assert capsys.readouterr().err == ""


def test_names_stay_on_a_line() -> None:
    assert (
        printable("a\tb\nc\x1b[2J\u202e\udc80é 猫.png") == "a\\tb\\nc\\x1b[2J\\u202e\\udc80é 猫.png"
    )
