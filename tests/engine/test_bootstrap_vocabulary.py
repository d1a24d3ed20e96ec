"""Gibberish is as varied as can be, and the guard tells it: by words that no clean caption has."""

import json
from pathlib import Path

import pytest

from engine.bootstrap.config import GuardSection
from engine.bootstrap.diversity import compare
from engine.bootstrap.guard import caption_reasons
from engine.bootstrap.vocabulary import MOST_PAIRS, unseen_words, vocabulary
from engine.data.tokenizer import open_tokenizer
from tests.shards import caption, picture, write_shards

LIMITS = GuardSection()
# Captions of a captioner that was tuned for four steps, after a pretraining of six; 512 of them
# have 0.983 unseen words and 1.0 distinct bigrams, the web's captions of the same pictures 0.311.
GIBBERISH = [
    "1649 chico yellow cantata reformation 40 mondays cm defamation glaring commenced skeletaljet",
    "guthriecastle invisible engagement insco toneusing 3000 abe internruck haven milo hansen",
    "austin company foreheadsman 57thuation 1954 iona refugees hypnotic emma [unused201] atheist",
    "nature mauritius innsbruck milmarinehea cookie forehead titled [unused173] stocked mushrooms",
    "previous hurled barrier defect frog morales christopher ex regatta [unused591] eta anxious",
    "fisherman stimulating amorsure la gamer celine toneeusti lulu concealed riff bell [unused344]",
]
# Of another captioner, tuned for 200 steps on 206 clean pairs: a round that raised R@1.
GOOD = [
    "man swimming medium - light skin tone",
    "running facing right light skin tone",
    "man in lotus position light skin tone",
    "mer hands medium - light skin tone",
    "person in lotus wheelchair medium skin tone",
    "worker antiquity medium skin tone",
]
CLEAN = [
    "person swimming medium skin tone",
    "man running facing right dark skin tone",
    "woman in lotus position light skin tone",
    "raised hands medium - light skin tone",
    "man in manual wheelchair medium - dark skin tone",
    "woman factory worker",
]


@pytest.fixture
def known(tmp_path: Path) -> set[str]:
    rows = []
    for number, text in enumerate(CLEAN):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
        rows.append({"image": f"{number}.png", "caption": [text, text.upper()]})
    (tmp_path / "clean.json").write_text(json.dumps(rows))
    return vocabulary(str(tmp_path / "clean.json"), None, open_tokenizer(None))


def reasons_of(texts: list[str], known: set[str]) -> list[str]:
    found = compare({"web": CLEAN, "synthetic": texts}) | {"commonest_share": 0.0}
    return caption_reasons(
        found | {"unseen_words": unseen_words(texts, known), "kept_share": 0.4}, LIMITS, None
    )


def test_gibberish_is_rejected_for_its_words_alone(known: set[str]) -> None:
    (reason,) = reasons_of(GIBBERISH, known)
    assert reason.endswith("are in no clean caption, more than guard.unseen_words 30.0 %")
    letters = [f"{'xqzvk'[n % 5] * (n + 3)} {'wjpf'[n % 4] * (n + 2)}" for n in range(40)]
    assert len(reasons_of(letters, known)) == 1


def test_words_that_people_used_pass(known: set[str]) -> None:
    assert 0 < unseen_words(GOOD, known) < 0.1
    assert reasons_of(GOOD, known) == []


# Shares of unseen words as they were measured.
MEASURED = {
    "beams, 206 clean pairs": 0.000,
    "nucleus, 355 clean pairs, the quickstart's": 0.062,
    "nucleus, 206 clean pairs": 0.030,
    "nucleus, 62 clean pairs": 0.039,
    "nucleus, 21 clean pairs": 0.048,
    "nucleus, 747 clean pairs of another kind than the web": 0.201,
}


@pytest.mark.parametrize("share", MEASURED.values(), ids=MEASURED)
def test_rounds_as_they_were_measured_pass(share: float) -> None:
    sound = {"distinct_2": 0.1, "web_distinct_2": 0.1, "commonest_share": 0.01, "kept_share": 0.4}
    assert caption_reasons(sound | {"unseen_words": share}, LIMITS, None) == []
    # Captioners that were tuned for 4, 20 and 60 steps, after a pretraining of six.
    for gibberish in (0.983, 0.931, 0.346):
        assert len(caption_reasons(sound | {"unseen_words": gibberish}, LIMITS, None)) == 1


CAPTIONS = {
    "English": ["The dog's bone isn't well-known", "A boy’s kite"],
    "French": ["Un café à la crème", "L'été passé"],
    "Vietnamese": ["Một con mèo trên ghế"],
    "Russian": ["Кошка на столе"],
    "Chinese": ["一只狗"],
}


@pytest.mark.parametrize("language", CAPTIONS)
def test_a_captioner_that_repeats_clean_captions_has_no_unseen_word(
    tmp_path: Path, language: str
) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    rows = [{"image": "0.png", "caption": text} for text in CAPTIONS[language]]
    (tmp_path / "clean.json").write_text(json.dumps(rows))
    tokenizer = open_tokenizer(None)
    known = vocabulary(str(tmp_path / "clean.json"), None, tokenizer)
    ids, _ = tokenizer.encode(CAPTIONS[language], 64)
    assert unseen_words(tokenizer.decode(ids[:, 1:]), known) == 0.0


def test_unseen_words_are_counted_as_often_as_they_are_said() -> None:
    assert unseen_words(["A dog, a dog!", "the cat"], {"a", "the", "cat"}) == 2 / 6
    assert unseen_words([], {"a"}) == unseen_words([" . "], {"a"}) == 1.0


def test_of_many_clean_pairs_some_of_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_shards(tmp_path, 30, per_shard=10)
    whole = vocabulary(str(folder), None, open_tokenizer(None))
    assert whole >= {"a", "red", "number", *map(str, range(30))}
    assert MOST_PAIRS > 30
    monkeypatch.setattr("engine.bootstrap.vocabulary.MOST_PAIRS", 5)
    some = vocabulary(str(folder), None, open_tokenizer(None))
    assert {word for word in some if word.isdigit()} == {"0", "6", "12", "18", "24"}
    assert all(set(caption(number).split()) <= some for number in (0, 24))
