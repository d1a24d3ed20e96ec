"""The rule: which of a picture's texts stay, from their scores alone."""

from collections.abc import Sequence
from dataclasses import dataclass

from engine.capfilt.config import Ranked, RuleSection
from engine.capfilt.not_words import is_words
from engine.data.shards import SYNTHETIC

WEB = "web"
KEPT = "matched"


@dataclass(frozen=True)
class Candidate:
    """A text that may describe a picture.

    Attributes:
        source: `web` or `synthetic`, which is also what an earlier captioner wrote.
        text: as it was found or made.
        itm: matching probability in [0, 1], or None where the text could not be scored.
        itc: cosine of text and picture in [-1, 1], or None.
        problem: why it could not be scored, or "".
    """

    source: str
    text: str
    itm: float | None
    itc: float | None
    problem: str = ""


def judge(candidates: Sequence[Candidate], rule: RuleSection) -> list[str]:
    """A reason for each of a picture's texts, `matched` for those that stay.

    By default the paper's rule (Li et al. 2022, section 3.3): a text, web or synthetic, is dropped
    when the matching head calls the pair unmatched. The others are, in this order: what could not
    be scored (its problem), `not_words` (a synthetic text that is none, see `is_words`; web texts
    are judged by their scores alone), `duplicate`, `unmatched`, `dissimilar`,
    `not_best_synthetic`, `not_among_best`.

    Args:
        candidates: all of one picture.
        rule: thresholds and limits.
    """
    reasons = [_alone(candidate, rule) for candidate in candidates]
    if rule.drop_duplicates:
        texts = [candidate.text for candidate in candidates]
        for number, text in enumerate(texts):
            if not candidates[number].problem and text in texts[:number]:
                reasons[number] = "duplicate"
    if rule.drop_not_words:
        for number, one in enumerate(candidates):
            if one.source == SYNTHETIC and not one.problem and not is_words(one.text):
                reasons[number] = "not_words"
    synthetic = [n for n, one in enumerate(candidates) if one.source == SYNTHETIC]
    _limit(candidates, reasons, synthetic, rule.best_synthetic, rule.rank_by, "not_best_synthetic")
    everyone = list(range(len(candidates)))
    _limit(candidates, reasons, everyone, rule.at_most, rule.rank_by, "not_among_best")
    return reasons


def _alone(candidate: Candidate, rule: RuleSection) -> str:
    if candidate.itm is None or candidate.itc is None:
        return candidate.problem
    if candidate.itm < rule.itm_threshold:
        return "unmatched"
    if rule.itc_threshold is not None and candidate.itc < rule.itc_threshold:
        return "dissimilar"
    return KEPT


def _limit(
    candidates: Sequence[Candidate],
    reasons: list[str],
    among: list[int],
    count: int | None,
    rank_by: Ranked,
    verdict: str,
) -> None:
    """Of those among which are kept so far, drop all but the `count` best; sorting is stable."""
    if count is None:
        return
    kept = [number for number in among if reasons[number] == KEPT]
    for number in sorted(kept, key=lambda n: -getattr(candidates[n], rank_by))[count:]:
        reasons[number] = verdict
