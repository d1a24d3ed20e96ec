"""METEOR 1.5 (Denkowski and Lavie 2014) by its authors' Java program.

The program comes with the package pycocoevalcap, which is no dependency: METEOR needs Java.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

from engine.config import ConfigError
from engine.evaluation.metrics import treebank_words

PACKAGE, JAR = "pycocoevalcap", "meteor-1.5.jar"
SEPARATOR = " ||| "
ENDED = "METEOR's Java program ended: has the machine 2 GiB for it?"


def find_meteor() -> list[str]:
    """The command that starts the program.

    Raises:
        ConfigError: no Java, or no program.
    """
    java, spec = shutil.which("java"), importlib.util.find_spec(PACKAGE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    jars = [jar for place in places if (jar := Path(place) / "meteor" / JAR).is_file()]
    if java is None or not jars:
        lacking = "Java" if java is None else f"the package {PACKAGE} (pip install {PACKAGE})"
        raise ConfigError(f"evaluate.meteor needs {lacking}: install it, or leave METEOR out")
    return [java, "-Xmx2G", "-jar", str(jars[0]), "-", "-", "-stdio", "-l", "en", "-norm"]


def meteor(candidates: list[str], references: list[list[str]]) -> float:
    """METEOR of the corpus, in [0, 1], as COCO's evaluation runs it.

    Args:
        candidates: one text a picture.
        references: texts of each picture.

    Raises:
        ConfigError: no Java, no program, or one that fails.
    """
    with subprocess.Popen(
        find_meteor(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    ) as program:

        def ask(*parts: str) -> str:
            """A line for a line."""
            try:
                program.stdin.write(SEPARATOR.join(parts) + "\n")
                program.stdin.flush()
                answer = program.stdout.readline()
            except OSError:
                answer = ""
            if not answer:
                raise ConfigError(ENDED)
            return answer.strip()

        counts = []
        for text, group in zip(candidates, references, strict=True):
            texts = [" ".join(treebank_words(one)) for one in (*group, text)]
            counts.append(ask("SCORE", *texts))
        ask("EVAL", *counts)
        # The answer was the first picture's; after all pictures' comes that of the corpus.
        answers = [program.stdout.readline() for _ in counts]
        program.stdin.close()
    if not answers[-1].strip():
        raise ConfigError(ENDED)
    return float(answers[-1])
