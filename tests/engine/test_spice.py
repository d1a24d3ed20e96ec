"""SPICE by its authors' program, as far as it goes without Stanford's parsers."""

import importlib.util
import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from blip_model import Blip
from engine.config import ConfigError, EvaluateSection
from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from engine.data.tokenizer import open_tokenizer
from engine.evaluation.caption import evaluate_captions
from engine.evaluation.spice import JAR, PARSERS, find_spice, scores_of, spice, why
from engine.inference import LoadedBlip
from tests.shards import write_shards
from tests.tiny import tiny_config

# What the classes of spice-1.0.jar wrote (`SpiceStats.toJSONString`) for 3, 0, 0 and 5 right
# propositions; with -subset, where a kind of them is in neither text.
WRITTEN = (
    '[{"scores":{"All":{"pr":0.6,"re":0.3,"f":0.4,"fn":7,"numImages":1,"fp":2,"tp":3},'
    '"Size":{"pr":1.0,"re":0.5,"f":0.6666666666666666,"fn":1,"numImages":1,"fp":0,"tp":1}},'
    '"image_id":0},{"scores":{"All":{"pr":0.0,"re":0.0,"f":0.0,"fn":9,"numImages":1,"fp":4,'
    '"tp":0},"Size":{"pr":null,"re":null,"f":null,"fn":0,"numImages":1,"fp":0,"tp":0}},'
    '"image_id":1},{"scores":{"All":{"pr":0.0,"re":0.0,"f":0.0,"fn":5,"numImages":1,"fp":0,'
    '"tp":0}},"image_id":2},{"scores":{"All":{"pr":1.0,"re":1.0,"f":1.0,"fn":0,"numImages":1,'
    '"fp":0,"tp":5}},"image_id":3}]'
)
HOSTILE = ['"; touch acted; $(touch acted) `touch acted`', "a\n-out\nacted", "𝔘nï\u2028cøde", ""]
# In the program's place: it takes its words, sees what it is given, and writes as it does.
STANDS_IN = """
import json, sys
given, out, made, silent = sys.argv[1:]
assert (out, silent) == ("-out", "-silent")
rows = json.loads(open(given, encoding="ascii").read())
assert all(type(row["test"]) is str and type(row["refs"]) is list for row in rows)
score = lambda row: {"All": {"f": float(row["test"] in row["refs"])}}
rows = [{"image_id": row["image_id"], "scores": score(row)} for row in rows]
open(made, "w").write(json.dumps(rows[::-1]))
"""


def test_what_the_program_writes_is_read() -> None:
    assert scores_of(WRITTEN, 4) == [0.4, 0.0, 0.0, 1.0]
    rows = json.loads(WRITTEN)
    assert scores_of(json.dumps(rows[::-1]), 4) == [0.4, 0.0, 0.0, 1.0]
    rows[2]["scores"]["All"]["f"] = None
    wrong = [WRITTEN[:-1], "[]", "3", "[3]", WRITTEN.replace("0.4", "1.4"), json.dumps(rows)]
    for written in wrong:
        with pytest.raises(ConfigError, match="something else than a score of each picture"):
            scores_of(written, 4)


def test_what_it_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=rf"spice {tmp_path}: no {JAR} in it; it comes with pip"):
        find_spice(tmp_path)
    (tmp_path / JAR).touch()
    with pytest.raises(ConfigError, match=r"no lib/st\S+0.jar and no lib/st\S+-models.jar in it"):
        find_spice(tmp_path)
    (tmp_path / "lib").mkdir()
    for name in PARSERS:
        (tmp_path / name).touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs Java: install version 8, or leave SPICE out"):
        find_spice(tmp_path)
    for version, fits in (("17.0.15", False), ("1.8.0_292", True), ("14.0.2", True)):
        (tmp_path / "java").write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
        (tmp_path / "java").chmod(0o755)
        if fits:
            assert find_spice(tmp_path)[-2:] == ["-jar", str(tmp_path / JAR)]
            continue
        with pytest.raises(ConfigError, match="JavaScript of Java 8, which the Java 17 of .* lack"):
            find_spice(tmp_path)
    # Before anything is computed.
    with pytest.raises(ConfigError, match="evaluate.spice nowhere: no "):
        evaluate_captions(None, None, EvaluateSection(spice="nowhere"))


def real_jar() -> Path | None:
    """The program, where pycocoevalcap and Java are installed."""
    spec = importlib.util.find_spec("pycocoevalcap")
    places = [Path(place) / "spice" / JAR for place in spec.submodule_search_locations or ()]
    return next((jar for jar in places if jar.is_file()), None) if shutil.which("java") else None


def test_the_real_program_without_its_parsers_is_one_line(tmp_path: Path) -> None:
    """It is a program for Java that comes with pycocoevalcap, as METEOR does."""
    jar = real_jar() if importlib.util.find_spec("pycocoevalcap") else None
    if jar is None:
        pytest.skip("SPICE is a program for Java in the package pycocoevalcap")
    (tmp_path / JAR).symlink_to(jar)
    (tmp_path / "lib").mkdir()
    for library in (jar.parent / "lib").iterdir():
        (tmp_path / "lib" / library.name).symlink_to(library)
    for name in PARSERS:
        with zipfile.ZipFile(tmp_path / name, "w") as empty:
            empty.writestr("nothing", "")
    command = [shutil.which("java") or "", "-Xmx256M", "-jar", str(tmp_path / JAR)]
    expected = r"SPICE's program ended without scores: java.lang.ClassNotFoundException: edu.stanf"
    with pytest.raises(ConfigError, match=expected) as refused:
        spice(HOSTILE, [HOSTILE] * 4, command)
    assert "\n" not in str(refused.value)


def test_texts_are_data_and_slowness_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", STANDS_IN]
    references = [["another", text] for text in HOSTILE[:3]] + [["another"]]
    assert spice(HOSTILE, references, command) == [1.0, 1.0, 1.0, 0.0]
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("engine.evaluation.spice.START_SECONDS", 0.0)
    monkeypatch.setattr("engine.evaluation.spice.TEXT_SECONDS", 0.01)
    with pytest.raises(ConfigError, match="did not end within 0 s for 2 texts"):
        spice(["a"], [["a"]], [sys.executable, "-c", "import time; time.sleep(600)"])


def test_the_innermost_error_is_told() -> None:
    thrown = "loading\nException in thread x: java.lang.Error\n\tat b\n"
    assert why(f"{thrown}Caused by: java.io.Gone\n\tat c\n") == "java.io.Gone"
    assert why(thrown) == "Exception in thread x: java.lang.Error"
    assert why("one\nkilled\n\n") == "killed"
    assert why("") == "it said nothing"
    assert len(why("Error " + "x" * 1000)) == 200


def test_captions_are_scored_each_and_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", STANDS_IN]
    monkeypatch.setattr("engine.evaluation.caption.find_spice", lambda folder: command)
    torch.manual_seed(0)
    pairs = EvaluationSet(open_source(str(write_shards(tmp_path, 5))), 32, 30, 10_000)
    settings = EvaluateSection(batch_size=5, max_length=6, spice=str(tmp_path))
    blip = LoadedBlip(Blip(tiny_config()), open_tokenizer(None))
    results = evaluate_captions(blip, pairs, settings)
    assert results["metrics"]["spice"] == 0.0
    assert [example["spice"] for example in results["examples"]] == [0.0] * 5
