"""SPICE (Anderson et al. 2016, arXiv:1607.08822) by its authors' Java program.

The program comes with the package pycocoevalcap, in its folder `spice`; Stanford's CoreNLP 3.6.0
and its models, by which it parses, do not. Its cache of parsed texts is left out.
"""

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from engine.config import ConfigError
from engine.evaluation.metrics import treebank_words

JAR = "spice-1.0.jar"
# Where the program looks for what is not in the package, and where Stanford has it.
PARSERS = ("lib/stanford-corenlp-3.6.0.jar", "lib/stanford-corenlp-3.6.0-models.jar")
ARCHIVE = "stanford-corenlp-full-2015-12-09.zip"
# Nashorn, by which the program writes its output, was taken out of Java with this release.
WITHOUT_SCRIPT = 15
HEAP = "-Xmx8G"
# That it may take to load the models, and for each text beside.
START_SECONDS, TEXT_SECONDS = 600.0, 1.0


def find_spice(folder: Path) -> list[str]:
    """The command that starts the program.

    Args:
        folder: with the program, and CoreNLP in `lib`.

    Raises:
        ConfigError: a file is not there, no Java, or one that the program cannot write with.
    """
    if not (folder / JAR).is_file():
        raise ConfigError(
            f"evaluate.spice {folder}: no {JAR} in it; it comes with pip install pycocoevalcap, in "
            "the folder pycocoevalcap/spice"
        )
    lacking = [name for name in PARSERS if not (folder / name).is_file()]
    if lacking:
        raise ConfigError(
            f"evaluate.spice {folder}: no {' and no '.join(lacking)} in it; "
            f"they are in Stanford's {ARCHIVE}: copy them there"
        )
    java = shutil.which("java")
    if java is None:
        raise ConfigError("evaluate.spice needs Java: install version 8, or leave SPICE out")
    version = _version(java)
    if version >= WITHOUT_SCRIPT:
        raise ConfigError(
            f"evaluate.spice: its program needs the JavaScript of Java 8, which the Java {version} "
            f"of {java} lacks: put Java 8 first on PATH, or leave SPICE out"
        )
    # As the jar's manifest says it, from wherever it is called.
    return [java, HEAP, "-jar", str((folder / JAR).resolve())]


def _version(java: str) -> int:
    """Java's release; 1.8 is 8."""
    asked = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(?:1\.)?(\d+)', asked.stderr)
    if found is None:
        raise ConfigError(f"evaluate.spice: {java} does not say its version: is it Java?")
    return int(found[1])


def spice(candidates: list[str], references: list[list[str]], command: list[str]) -> list[float]:
    """SPICE of each picture, in [0, 1]; that of the corpus is their mean.

    Args:
        candidates: one text a picture.
        references: texts of each picture.
        command: from `find_spice`.

    Raises:
        ConfigError: the program fails, takes too long, or writes something else.
    """
    rows = [
        {"image_id": number, "test": _tokens(text), "refs": [_tokens(one) for one in group]}
        for number, (text, group) in enumerate(zip(candidates, references, strict=True))
    ]
    texts = len(rows) + sum(len(row["refs"]) for row in rows)
    patience = START_SECONDS + TEXT_SECONDS * texts
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "captions.json", Path(folder) / "scores.json"
        # In ASCII: the program reads files in the encoding of the machine.
        given.write_text(json.dumps(rows), encoding="ascii")
        words = [*command, str(given), "-out", str(made), "-silent"]
        try:
            ended = subprocess.run(
                words, cwd=folder, capture_output=True, timeout=patience, check=False
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"SPICE's program did not end within {patience:.0f} s for {texts} texts"
            ) from None
        if ended.returncode or not made.is_file():
            reason = why(ended.stderr.decode("utf-8", "replace"))
            raise ConfigError(f"SPICE's program ended without scores: {reason}")
        return scores_of(made.read_text(encoding="utf-8", errors="replace"), len(rows))


def _tokens(text: str) -> str:
    """As COCO's evaluation hands texts to its scores."""
    return " ".join(treebank_words(text))


def why(said: str) -> str:
    """The innermost error of what Java said, as a line."""
    lines = [line.strip() for line in said.splitlines()]
    causes = [line for line in lines if line.startswith("Caused by: ")]
    thrown = [line for line in lines if re.search(r"(Error|Exception)\b", line)]
    chosen = causes[-1:] or thrown[:1] or [line for line in lines if line][-1:]
    return chosen[0].removeprefix("Caused by: ")[:200] if chosen else "it said nothing"


def scores_of(written: str, count: int) -> list[float]:
    """F-scores of `count` pictures in order, from what the program wrote.

        [{"image_id": 0, "scores": {"All": {"f": 0.4, "pr": 0.6, "re": 0.3, ...}}}, ...]

    Raises:
        ConfigError: it is something else.
    """
    try:
        found: dict[Any, Any] = {
            row["image_id"]: row["scores"]["All"]["f"] for row in json.loads(written)
        }
        scores = [float(found[number]) for number in range(count)]
    except (ValueError, KeyError, TypeError):
        scores = []
    if len(scores) != count or not all(0 <= score <= 1 for score in scores):
        raise ConfigError("SPICE's program wrote something else than a score of each picture")
    return scores
