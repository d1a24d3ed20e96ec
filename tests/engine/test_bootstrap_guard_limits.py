"""The limits of the guard, all met exactly: a round at a limit passes, a round beyond one does not.

Limits are sums of halves, quarters and eighths, so that nothing is rounded.
"""

import pytest

from engine.bootstrap.config import GuardSection
from engine.bootstrap.guard import caption_reasons, filter_reasons, retrieval_reasons
from engine.bootstrap.state import Round

LIMITS = GuardSection(
    filter_precision=0.75,
    filter_recall=0.5,
    diversity=0.25,
    unseen_words=0.25,
    commonest_share=0.125,
    kept_share=0.5,
    kept_drift=0.25,
    retrieval_drop=0.125,
)
AT_LIMITS = {
    "filter_precision": 0.75,
    "filter_recall": 0.5,
    "distinct_2": 0.125,
    "web_distinct_2": 0.5,
    "unseen_words": 0.25,
    "commonest_share": 0.125,
    "kept_share": 0.5,
    "retrieval_r1": 0.375,
}
LITTLE = 2.0**-10


def reasons(guard: dict[str, float], kept_before: float = 0.5) -> list[str]:
    """Of a round after one that kept so much and retrieved a half."""
    before = Round(1, accepted=True, guard={"kept_share": kept_before, "retrieval_r1": 0.5})
    found = filter_reasons(guard, LIMITS) + caption_reasons(guard, LIMITS, before)
    return found + retrieval_reasons(guard, LIMITS, before)


@pytest.mark.parametrize("kept_before", [0.25, 0.75])
def test_a_round_at_every_limit_passes(kept_before: float) -> None:
    assert reasons(AT_LIMITS, kept_before) == []


@pytest.mark.parametrize(
    ("name", "step", "limit"),
    [
        ("filter_precision", -LITTLE, "guard.filter_precision"),
        ("filter_recall", -LITTLE, "guard.filter_recall"),
        ("distinct_2", -LITTLE, "guard.diversity"),
        ("unseen_words", LITTLE, "guard.unseen_words"),
        ("commonest_share", LITTLE, "guard.commonest_share"),
        ("kept_share", -LITTLE, "guard.kept_share"),
        ("retrieval_r1", -LITTLE, "guard.retrieval_drop"),
    ],
)
def test_a_round_beyond_one_limit_has_that_reason(name: str, step: float, limit: str) -> None:
    (reason,) = reasons({**AT_LIMITS, name: AT_LIMITS[name] + step})
    assert f" than {limit} " in reason


def test_a_filter_that_suddenly_keeps_much_more_is_as_suspect_as_one_that_keeps_less() -> None:
    (reason,) = reasons({**AT_LIMITS, "kept_share": 0.9}, kept_before=0.3)
    assert reason == (
        "the kept share went from 30.0 % in round 1 to 90.0 %, by more than guard.kept_drift 25.0 %"
    )
