"""Captioning scores against values that COCO's own evaluation gave; see coco_caption_cases.json."""

import json
import shutil
from pathlib import Path

import pytest

from engine.config import ConfigError
from engine.evaluation.meteor import meteor
from engine.evaluation.metrics import bleu, cider_d, treebank_words

STORED = json.loads((Path(__file__).parents[1] / "coco_caption_cases.json").read_text("utf-8"))


def test_tokens_are_those_of_cocos_evaluation() -> None:
    cases = [(one, tokens) for one, tokens in STORED["tokens"]]
    for picture in STORED["pictures"]:
        texts = [picture["candidate"], *picture["references"]]
        cases += zip(texts, picture["tokens"], strict=True)
    assert len(cases) > 80
    for text, tokens in cases:
        assert " ".join(treebank_words(text)) == tokens


def stored_texts(which: str) -> tuple[list[str], list[list[str]]]:
    candidates = [picture["candidate"] for picture in STORED["pictures"]]
    if which == "dealt":
        candidates = candidates[1:] + candidates[:1]
    return candidates, [picture["references"] for picture in STORED["pictures"]]


@pytest.mark.parametrize("which", ["values", "dealt"])
def test_scores_are_those_of_cocos_evaluation(which: str) -> None:
    """From the texts as they are written; where no n-gram is right, theirs is not quite zero."""
    texts, expected = stored_texts(which), STORED[which]
    assert cider_d(*texts) == pytest.approx(expected["cider"], rel=1e-12)
    for n in (1, 2, 3, 4):
        assert bleu(*texts, n) == pytest.approx(expected[f"bleu{n}"], rel=1e-8, abs=1e-6)


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR is a program for Java")
def test_meteor_is_that_of_cocos_evaluation() -> None:
    assert meteor(*stored_texts("values")) == pytest.approx(STORED["values"]["meteor"], rel=1e-9)


def test_meteor_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="evaluate.meteor needs Java: install it, or leave"):
        meteor(["a"], [["a"]])
    (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setattr("engine.evaluation.meteor.PACKAGE", "no_such_package")
    with pytest.raises(ConfigError, match="needs the package no_such_package"):
        meteor(["a"], [["a"]])
