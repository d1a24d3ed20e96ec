"""The default pair set: its split, its bytes, and what an interrupted build leaves."""

import io
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.collect import openmoji, pair_set
from engine.collect.drawing import Drawing, draw
from engine.collect.openmoji import drawings
from engine.collect.pair_set import CollectConfig, collect, split
from engine.config import ConfigError
from engine.data.images import decode_image
from engine.data.open_source import open_source
from engine.data.source import RawSample
from tests.commands import contents
from tests.forked import run
from tests.ranks import ROOT

WORDS = ("red", "green", "fox", "dog", "runs", "sits")
PARTS_OF_A_WORLD = ("train", "world/web", "world/clean")
TRADES = re.compile("farmer|cook|student|pilot")


def words(name: str) -> set[str]:
    return set(re.findall(r"\w+", name.lower()))


@pytest.fixture(scope="module")
def everything() -> list[Drawing]:
    return drawings()


@pytest.fixture
def few(everything: list[Drawing], monkeypatch: pytest.MonkeyPatch) -> list[Drawing]:
    """Some 70 of the real drawings, whose names share their words, in place of all."""
    found = [drawing for drawing in everything if TRADES.search(drawing.name)]
    monkeypatch.setattr(openmoji, "drawings", lambda: list(found))
    return found


def settings_of(folder: Path, **changes: object) -> CollectConfig:
    values = {"size": 24, "held_out": 12, "samples_per_shard": 20}
    return CollectConfig(output_dir=str(folder), **(values | changes))


def silent(_: str) -> None:
    """Takes progress lines."""


def samples(folder: Path, part: str) -> list[RawSample]:
    source = open_source(str(folder / part))
    return [source.read(number) for number in range(len(source))]


def assert_split(
    pictures: list[Drawing], drawn: dict[str, bytes], parts: tuple[list[Drawing], list[Drawing]]
) -> None:
    """What a split promises."""
    training, kept_out = parts
    assert sorted(d.code for d in training + kept_out) == sorted(d.code for d in pictures)
    stays = Counter(word for drawing in training for word in words(drawing.name))
    copies = Counter(drawn[drawing.code] for drawing in pictures)
    for drawing in kept_out:
        assert all(stays[word] >= 5 for word in words(drawing.name)), drawing.name
        assert copies[drawn[drawing.code]] == 1, drawing.name


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_whole_set_can_be_split(everything: list[Drawing], seed: int) -> None:
    drawn = {drawing.code: drawing.code.encode() for drawing in everything}
    parts = split(everything, drawn, 400, seed)
    assert len(parts[1]) == 400
    assert_split(everything, drawn, parts)
    assert split(everything, drawn, 400, seed) == parts
    assert split(everything, drawn, 400, seed + 1)[1] != parts[1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sets(st.sampled_from(WORDS), min_size=1), min_size=1, max_size=60),
    st.integers(1, 10),
    st.integers(0, 9),
    st.data(),
)
def test_any_split_keeps_its_promises_or_says_how_many_can_be(
    names: list[set[str]], held_out: int, seed: int, data: st.DataObject
) -> None:
    pictures = [
        Drawing(str(number), " ".join(sorted(name)), Path(f"{number}.svg"))
        for number, name in enumerate(names)
    ]
    looks = st.integers(0, 2 * len(names)).map(str)
    drawn = {drawing.code: data.draw(looks).encode() for drawing in pictures}
    try:
        parts = split(pictures, drawn, held_out, seed)
    except ConfigError as error:
        most = int(re.search(r"only (\d+) combinations", str(error))[1])
        assert most < held_out
        parts = split(pictures, drawn, most, seed)
        held_out = most
    assert len(parts[1]) == held_out
    assert_split(pictures, drawn, parts)


def test_pairs_are_the_drawings_with_their_names(few: list[Drawing], tmp_path: Path) -> None:
    said: list[str] = []
    assert collect(settings_of(tmp_path / "set"), said.append) == tmp_path / "set"
    assert said[-1] == f"{tmp_path / 'set'}: {len(few) - 12} training pairs, 12 held out"
    training, kept_out = (samples(tmp_path / "set", part) for part in ("train", "heldout"))
    found = {sample.uid: sample.captions for sample in training + kept_out}
    assert found == {f"openmoji-{drawing.code}": [drawing.name] for drawing in few}
    assert len(training) == len(few) - 12 and len(kept_out) == 12
    seen = {sample.image for sample in training}
    assert not seen & {sample.image for sample in kept_out}
    # Several names for one drawing are why that needs care.
    assert len(seen) < len(training)
    for sample in training + kept_out:
        assert sample.problem is None
        picture = decode_image(sample.image, 24 * 24)
        assert picture.size == (24, 24)
        # White around the drawing, and a drawing of several colours.
        assert picture.getpixel((0, 0)) == (255, 255, 255)
        assert len(picture.getcolors(24 * 24)) > 10, sample.captions
    assert "CC BY-SA 4.0" in (tmp_path / "set" / "ATTRIBUTION.txt").read_text()


def test_no_drawing_of_the_whole_set_is_blank(everything: list[Drawing]) -> None:
    for drawing in everything[::25]:
        picture = Image.open(io.BytesIO(draw(drawing.path, 24))).convert("L")
        low, high = picture.getextrema()
        assert high - low > 50, drawing.name


@pytest.mark.usefixtures("few")
def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        collect(settings_of(folder, seed=seed), silent)
    one, two, three = (contents(folder) for folder in folders)
    assert one == two
    assert one["heldout/openmoji_00000.tar"] != three["heldout/openmoji_00000.tar"]


@pytest.mark.usefixtures("few")
def test_shards_of_the_world_are_as_long_as_the_others(tmp_path: Path) -> None:
    collect(settings_of(tmp_path, noise=0.5, clean_fraction=0.5), silent)
    lengths = {part: open_source(str(tmp_path / part)).lengths for part in PARTS_OF_A_WORLD}
    for whole in lengths.values():
        assert set(whole[:-1]) == {20}
        assert 0 < whole[-1] <= 20


@pytest.mark.usefixtures("few")
def test_a_complete_set_is_left_alone(tmp_path: Path) -> None:
    collect(settings_of(tmp_path / "set"), silent)
    before = contents(tmp_path)
    said: list[str] = []
    collect(settings_of(tmp_path / "set"), said.append)
    assert said == [f"{tmp_path / 'set'}: complete, nothing to do"]
    for name, value in [("size", 25), ("held_out", 11), ("seed", 1), ("samples_per_shard", 19)]:
        others = rf"holds a pair set with other settings \({name} \d+ -> {value}\): repeat them"
        with pytest.raises(ConfigError, match=others):
            collect(settings_of(tmp_path / "set", **{name: value}), silent)
    assert contents(tmp_path) == before


@pytest.mark.usefixtures("few")
def test_a_set_of_before_a_setting_was_there_has_its_default(tmp_path: Path) -> None:
    collect(settings_of(tmp_path / "set"), silent)
    facts = tmp_path / "set" / "collection.json"
    told = json.loads(facts.read_text())
    del told["settings"]["noise"], told["settings"]["clean_fraction"]
    facts.write_text(json.dumps(told))
    collect(settings_of(tmp_path / "set"), silent)
    with pytest.raises(ConfigError, match=r"other settings \(noise None -> 0.5\)"):
        collect(settings_of(tmp_path / "set", noise=0.5), silent)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("broken", ["draw", "split", "_write"])
def test_a_build_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    calls, whole = [], getattr(pair_set, broken)

    def fails_at_last(*arguments: object, **named: object) -> object:
        calls.append(arguments)
        if len(calls) == {"draw": 30, "split": 1, "_write": 2}[broken]:
            raise KeyboardInterrupt
        return whole(*arguments, **named)

    monkeypatch.setattr(pair_set, broken, fails_at_last)
    (tmp_path / "set").mkdir()
    with pytest.raises(KeyboardInterrupt):
        collect(settings_of(tmp_path / "set"), silent)
    assert contents(tmp_path) == {"set": ""}
    monkeypatch.setattr(pair_set, broken, whole)
    collect(settings_of(tmp_path / "set"), silent)
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


def test_a_build_that_is_killed_leaves_no_set(tmp_path: Path) -> None:
    """SIGKILL between the last shard and the end: nothing stands under the set's name."""
    program = f"""
import os, signal
from engine.collect import openmoji, pair_set
everything = openmoji.drawings()
openmoji.drawings = lambda: [d for d in everything if "cook" in d.name or "pilot" in d.name]
write_text = pair_set.Path.write_text
def dies(path, text):
    if path.name == "ATTRIBUTION.txt":
        os.kill(os.getpid(), signal.SIGKILL)
    return write_text(path, text)
pair_set.Path.write_text = dies
pair_set.collect(pair_set.CollectConfig(output_dir={str(tmp_path / "set")!r}, size=16, held_out=3))
"""
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert killed.returncode == -9, killed.stderr
    left = [path.name for path in tmp_path.iterdir()]
    assert len(left) == 1 and left[0].startswith("set.building-")
    with pytest.raises(ConfigError, match="no such file or folder"):
        open_source(str(tmp_path / "set" / "train"))


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("held_out", [40, 1000])
def test_more_than_can_be_held_out(tmp_path: Path, held_out: int) -> None:
    with pytest.raises(ConfigError, match=f"held_out is {held_out}: only"):
        collect(settings_of(tmp_path / "set", held_out=held_out), silent)
    assert not list(tmp_path.iterdir())


def test_a_signal_leaves_nothing_half_built(tmp_path: Path) -> None:
    given = ["SIGTERM", "*.svg", 100, "launch.collect", "--output_dir", tmp_path / "set"]
    ((code, said),) = run("tests.at_file", given, tmp_path / "log")
    assert code == 143, said
    assert [path.name for path in tmp_path.iterdir()] == ["log"]
