"""Pair sets from installed packages: what a file says of itself, and files that are refused."""

import io
from pathlib import Path

import pytest
from PIL import Image

from engine.collect import openclipart, tuxpaint
from engine.collect.drawing import MAX_BYTES, draw, read_svg
from engine.collect.pair_set import CollectConfig, collect
from engine.config import ConfigError
from engine.data.images import BadSample
from engine.data.open_source import open_source
from launch import collect as command
from tests.commands import call, contents
from tests.shards import picture

SVG = """<?xml version="1.0" encoding="utf-8"?>
{dtd}<svg xmlns="http://www.w3.org/2000/svg" xmlns:x="http://www.w3.org/1999/xlink"
 xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#" width="200" height="100">
<metadata><r:RDF xmlns:d="http://purl.org/dc/elements/1.1/" xmlns:c="http://creativecommons.org/ns#">
<c:Work>{work}</c:Work></r:RDF></metadata>
<rect width="200" height="100" fill="{fill}"/>{more}</svg>"""
WORK = (
    "<d:title>Red {n}</d:title><d:description>A red\n thing</d:description>"
    "<d:subject><r:Bag><r:li>hash</r:li><r:li>big_box</r:li><r:li>red</r:li><r:li/></r:Bag>"
    "</d:subject><d:creator><c:Agent><d:title>Some One</d:title></c:Agent></d:creator>"
)


def write(path: Path, *, work: str = "", fill: str = "#f00", more: str = "", dtd: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SVG.format(work=work, fill=fill, more=more, dtd=dtd), encoding="utf-8")
    return path


def samples(folder: Path) -> dict[str, str]:
    source = open_source([str(folder / part) for part in ("train", "heldout")])
    found = [source.read(number) for number in range(len(source))]
    assert all(Image.open(io.BytesIO(one.image)).size == (20, 20) for one in found)
    return {one.uid: one.captions[0] for one in found}


def test_a_drawing_is_whole_and_square(tmp_path: Path) -> None:
    with Image.open(io.BytesIO(draw(write(tmp_path / "a.svg"), 40))) as image:
        assert image.size == (40, 40)
        assert image.getpixel((20, 20)) == (255, 0, 0) and image.getpixel((1, 20)) == (255, 0, 0)
        assert image.getpixel((20, 5)) == image.getpixel((20, 35)) == (255, 255, 255)
    pixels, metric = 'width="200" height="100"', 'width="210mm" height="105mm"'
    text = (tmp_path / "a.svg").read_text().replace(pixels, metric, 1)
    (tmp_path / "metric.svg").write_text(text)
    assert Image.open(io.BytesIO(draw(tmp_path / "metric.svg", 40))).size == (40, 40)
    (tmp_path / "b.png").write_bytes(picture(0))
    with Image.open(io.BytesIO(draw(tmp_path / "b.png", 20))) as image:
        assert image.size == (20, 20) and image.getpixel((10, 10)) == (255, 0, 0)


BOMB = '<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dtd": BOMB, "work": "<d:title>&b;</d:title>"}, "entities"),
        ({"dtd": '<!DOCTYPE svg [<!ENTITY f SYSTEM "file:///etc/hostname">]>'}, "entities"),
        ({"more": '<image x:href="/etc/secret.png" width="9" height="9"/>'}, "foreign_files"),
        ({"more": '<image href="http://example.org/a.png"/>'}, "foreign_files"),
        ({"more": "<rect>"}, "undecodable"),
        ({"more": f"<!--{'x' * MAX_BYTES}-->"}, "too_large"),
    ],
)
def test_a_file_that_is_no_mere_drawing_is_refused(
    tmp_path: Path, settings: dict[str, str], reason: str
) -> None:
    path = write(tmp_path / "a.svg", **settings)
    for work in (lambda: draw(path, 20), lambda: read_svg(path)):
        with pytest.raises(BadSample, match=reason):
            work()


def test_an_encoding_hides_no_entity(tmp_path: Path) -> None:
    for encoding in ("utf-16", "cp037"):
        text = SVG.format(dtd=BOMB, work="<d:title>&b;</d:title>", fill="#f00", more="")
        path = tmp_path / f"{encoding}.svg"
        path.write_bytes(text.replace("utf-8", encoding).encode(encoding))
        with pytest.raises(BadSample):
            read_svg(path)


def test_a_harmless_doctype_is_none(tmp_path: Path) -> None:
    dtd = '<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.0//EN" "http://example.org/svg10.dtd">\n'
    path = write(tmp_path / "a.svg", dtd=dtd, work=WORK.format(n="Box"))
    assert openclipart.caption_of(read_svg(path)[1]) == "Red Box, A red thing, big box"


def test_a_title_is_not_said_twice(tmp_path: Path) -> None:
    work = "<d:title>Apple Pie</d:title><d:description>apple pie.</d:description>"
    assert openclipart.caption_of(read_svg(write(tmp_path / "a.svg", work=work))[1]) == "Apple Pie"
    assert openclipart.caption_of(read_svg(write(tmp_path / "b.svg"))[1]) == ""


def test_clip_art_with_its_titles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "svg"
    for n in range(6):
        write(folder / f"part{n % 2}" / f"{n}.svg", work=WORK.format(n=n), fill=f"#{n}00")
    write(folder / "copy.svg", work=WORK.format(n=5), fill="#500")
    write(folder / "silent.svg")
    write(folder / "bomb.svg", dtd=BOMB, work="<d:title>&b;</d:title>")
    monkeypatch.setattr(openclipart, "FOLDER", folder)
    settings = {"source": "openclipart", "size": 20, "held_out": 2}
    said: list[str] = []
    for name in ("one", "two"):
        collect(CollectConfig(output_dir=str(tmp_path / name), **settings), said.append)
    assert said[-1].endswith("4 training pairs, 2 held out")
    found = samples(tmp_path / "one")
    # Of equal files the first in order of paths stays.
    uids = {f"openclipart-part{n % 2}/{n}.svg" for n in range(5)} | {"openclipart-copy.svg"}
    assert found.keys() == uids
    assert found["openclipart-part1/3.svg"] == "Red 3, A red thing, big box"
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_stamps_with_their_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "stamps"
    for n in range(4):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        (folder / "a" / f"{n}.png").write_bytes(picture(n))
        text = f"Thing number {n}.\nde.utf8=Ding Nummer {n}.\n"
        (folder / "a" / f"{n}.txt").write_text(text, encoding="utf-8")
    write(folder / "a" / "3.svg", fill="#0f0")
    (folder / "a" / "pictureless.txt").write_text("Nothing.\n")
    (folder / "a" / "4.png").write_bytes(picture(4))
    (folder / "a" / "5.txt").write_text("Broken.\n")
    (folder / "a" / "5.png").write_bytes(b"no picture")
    monkeypatch.setattr(tuxpaint, "FOLDER", folder)
    said: list[str] = []
    settings = {"source": "tuxpaint", "size": 20, "held_out": 2}
    collect(CollectConfig(output_dir=str(tmp_path / "set"), **settings), said.append)
    assert "1 files could not be drawn and are left out" in said
    found = samples(tmp_path / "set")
    assert found == {f"tuxpaint-a/{n}": f"Thing number {n}." for n in range(4)}
    assert "GPL-2" in (tmp_path / "set" / "ATTRIBUTION.txt").read_text()
    assert tuxpaint.drawings()[3].path.suffix == ".svg"


@pytest.mark.parametrize(
    ("source", "package"),
    [("openclipart", "openclipart-svg"), ("tuxpaint", "tuxpaint-stamps-default")],
)
def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, package: str
) -> None:
    for module in (openclipart, tuxpaint):
        monkeypatch.setattr(module, "FOLDER", tmp_path / "absent")
    done = call(command.main, "--source", source, "--output_dir", tmp_path / "set")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1 and f"apt-get install {package}" in done.err
    assert not (tmp_path / "set").exists()


def test_a_set_has_a_folder_of_its_own() -> None:
    assert CollectConfig(source="tuxpaint").folder == Path("runs/data/tuxpaint")
    with pytest.raises(ConfigError, match="choose one of openmoji, openclipart, tuxpaint"):
        CollectConfig(source="clipart")
