"""The rule keeps what it should, from scores alone."""

import dataclasses

import pytest

from engine.capfilt.config import RuleSection
from engine.capfilt.rule import Candidate, judge
from engine.capfilt.table import Scored, from_bytes, judge_all, to_bytes
from engine.config import ConfigError

TEXTS = [
    Candidate("web", "a dog", 0.7, 0.1),
    Candidate("web", "", None, None, "empty_caption"),
    Candidate("synthetic", "a cat", 0.5, 0.9),
    Candidate("synthetic", "a cow", 0.49999, 0.9),
    Candidate("synthetic", "a dog", 0.9, 0.2),
    Candidate("synthetic", "a pig", 0.5, 0.3),
]


@pytest.mark.parametrize(
    ("rule", "reasons"),
    [
        ({}, "matched empty_caption matched unmatched matched matched"),
        ({"itm_threshold": 0.0}, "matched empty_caption matched matched matched matched"),
        ({"itm_threshold": 0.8}, "unmatched empty_caption unmatched unmatched matched unmatched"),
        ({"itc_threshold": 0.2}, "dissimilar empty_caption matched unmatched matched matched"),
        (
            {"best_synthetic": 1},
            "matched empty_caption not_best_synthetic unmatched matched not_best_synthetic",
        ),
        (
            {"best_synthetic": 2},
            "matched empty_caption matched unmatched matched not_best_synthetic",
        ),
        (
            {"best_synthetic": 1, "rank_by": "itc"},
            "matched empty_caption matched unmatched not_best_synthetic not_best_synthetic",
        ),
        (
            {"best_synthetic": 0},
            "matched empty_caption " + "not_best_synthetic unmatched " + "not_best_synthetic " * 2,
        ),
        (
            {"at_most": 1},
            "not_among_best empty_caption not_among_best unmatched matched not_among_best",
        ),
        (
            {"at_most": 1, "rank_by": "itc"},
            "not_among_best empty_caption matched unmatched " + "not_among_best " * 2,
        ),
        (
            {"best_synthetic": 1, "at_most": 2, "rank_by": "itc"},
            "matched empty_caption matched unmatched not_best_synthetic not_best_synthetic",
        ),
        ({"drop_duplicates": True}, "matched empty_caption matched unmatched duplicate matched"),
    ],
    ids=str,
)
def test_reasons(rule: dict, reasons: str) -> None:
    assert judge(TEXTS, RuleSection(**rule)) == reasons.split()


def test_what_has_a_problem_is_no_duplicate() -> None:
    texts = [Candidate("web", "", None, None, "empty_caption")] * 2
    assert judge(texts, RuleSection(drop_duplicates=True)) == ["empty_caption"] * 2


def test_a_table_gives_back_what_it_was_made_from() -> None:
    pictures = [Scored("a/0", "u0", TEXTS), Scored("a/1", "u0", TEXTS[:1])]
    pictures[1] = dataclasses.replace(
        pictures[1], candidates=[Candidate("web", 'tab\t"é\n', 0.25, -0.5)]
    )
    judged = judge_all(pictures, RuleSection())
    content = to_bytes(judged)
    assert to_bytes(judged) == content
    again = from_bytes(content, "x")
    # Scores are stored in single precision; what is judged again is judged alike.
    assert [[c.text for c in p.candidates] for p in again] == [
        [c.text for c in p.candidates] for p in pictures
    ]
    assert [p.reasons for p in judge_all(again, RuleSection())] == [p.reasons for p in judged]
    assert to_bytes(judge_all(again, RuleSection())) == content


@pytest.mark.parametrize("at", [0.3, 0.6, 0.95])
def test_a_damaged_table_is_one_line(at: float) -> None:
    content = bytearray(to_bytes(judge_all([Scored("0", "u", TEXTS)] * 50, RuleSection())))
    content[int(len(content) * at)] ^= 64
    try:
        pictures = from_bytes(bytes(content), "name.parquet")
    except ConfigError as error:
        assert "name.parquet: not a" in str(error)
    else:
        # A flip in a part that nobody reads.
        assert [len(p.candidates) for p in pictures] == [50 * len(TEXTS)]
