"""Held-out texts are scored with their pictures, and the same dealt out with others."""

import json
from pathlib import Path

import pytest

from engine.bootstrap.labelled import score_labelled, wrong_texts
from engine.capfilt.config import CapFiltConfig, PairsSection, RuleSection
from engine.config import ConfigError, DataSection
from engine.inference import LoadedBlip
from tests.loaded import loaded_blip
from tests.shards import picture

# More pictures than a batch has; of the last one a text is longer than what counts of it.
TEXTS = [["a dog", "red"], ["a blue cat"], ["tree"], ["two hats"], ["fox one two three four five"]]


@pytest.fixture(scope="module")
def blip() -> LoadedBlip:
    return loaded_blip()


def held_out(folder: Path, texts: list[list[str]]) -> DataSection:
    rows = []
    for number, some in enumerate(texts):
        (folder / f"{number}.png").write_bytes(picture(number))
        rows.append({"image": f"{number}.png", "caption": some})
    (folder / "held_out.json").write_text(json.dumps(rows))
    return DataSection(eval=str(folder / "held_out.json"))


def settings(limits: dict[str, int] | None = None, **rule: float) -> CapFiltConfig:
    pairs = PairsSection(train="web", **limits or {})
    names = {"captioner": "a", "filter": "b"}
    return CapFiltConfig(**names, batch_size=2, data=pairs, rule=RuleSection(**rule))


# Beside three words [ENC] and [SEP] count.
@pytest.mark.parametrize("limits", [{"max_words": 3}, {"max_tokens": 5}])
def test_scores_are_those_of_match_in_any_batches(
    blip: LoadedBlip, tmp_path: Path, limits: dict[str, int]
) -> None:
    data = held_out(tmp_path, TEXTS)
    found = score_labelled(blip, settings(limits), data, 3)
    short = [[" ".join(text.split()[:3]) for text in some] for some in TEXTS]
    wrong = wrong_texts(short, 3)
    dealt = [(n, text) for some in (short, wrong) for n, many in enumerate(some) for text in many]
    expected = blip.match([picture(n) for n, _ in dealt], [text for _, text in dealt])
    assert found.scores == pytest.approx(expected.numpy(), abs=1e-5)
    assert len(set(found.scores.round(5))) == len(found.scores)
    assert found.right.tolist() == [True] * 6 + [False] * 6


def test_what_the_rule_keeps_is_kept(blip: LoadedBlip, tmp_path: Path) -> None:
    data = held_out(tmp_path, TEXTS)
    scores = score_labelled(blip, settings(), data, 0).scores
    middle = float(sorted(scores)[len(scores) // 2])
    kept = score_labelled(blip, settings(itm_threshold=middle), data, 0).kept
    assert kept.tolist() == (scores >= middle).tolist()
    assert 0 < kept.sum() < len(kept)
    assert not score_labelled(blip, settings(itc_threshold=1.0), data, 0).kept.any()


def test_pictures_of_one_text_cannot_be_judged(blip: LoadedBlip, tmp_path: Path) -> None:
    data = held_out(tmp_path, [["a dog"]] * 3)
    with pytest.raises(ConfigError, match="its pictures have one text, none can be wrong"):
        score_labelled(blip, settings(), data, 0)
