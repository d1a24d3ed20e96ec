"""The guard against errors that compound: what a round must be like, or it is rejected.

A captioner writes what the next model believes, and a filter keeps what it believes already, so a
round can make things worse without any error. Each rule says its reason in plain words.
"""

import json
from pathlib import Path

from engine.bootstrap.config import GuardSection
from engine.bootstrap.state import Round
from engine.capfilt.folder import SUMMARY
from engine.capfilt.rule import KEPT, SYNTHETIC, WEB
from engine.config import ConfigError

# What is exactly at a limit keeps it, however the two were computed.
SLACK = 1e-9


def filter_reasons(guard: dict[str, float], limits: GuardSection) -> list[str]:
    """Why a filter may not clean anything; looked at before it does.

    Args:
        guard: what is known of the round.
        limits: that it must keep.
    """
    reasons = []
    for name, what in (
        ("filter_precision", "of the texts that the filter keeps, {} are right"),
        ("filter_recall", "of the right texts the filter keeps {}"),
    ):
        found, limit = guard[name], getattr(limits, name)
        if found < limit - SLACK:
            digits = _digits(limit, found)
            said = what.format(percent(found, digits))
            reasons.append(f"{said}, less than guard.{name} {percent(limit, digits)}")
    return reasons


def caption_reasons(
    guard: dict[str, float], limits: GuardSection, start: Round | None
) -> list[str]:
    """Why no model may be trained on the cleaned pairs; looked at before one is.

    Args:
        guard: what is known of the round.
        limits: that it must keep.
        start: the last good round.
    """
    reasons = []
    bigrams, least = guard["distinct_2"], limits.diversity * guard["web_distinct_2"]
    if bigrams < least - SLACK:
        digits = _digits(least, bigrams)
        reasons.append(
            f"of the synthetic captions' bigrams {percent(bigrams, digits)} are distinct, of the "
            f"web captions' {percent(guard['web_distinct_2'], digits)}: less than guard.diversity "
            f"{percent(limits.diversity, digits)} of that"
        )
    for name, what in (
        ("unseen_words", "of the synthetic captions' words {} are in no clean caption"),
        ("commonest_share", "the commonest synthetic caption makes up {}"),
    ):
        found, limit = guard[name], getattr(limits, name)
        if found > limit + SLACK:
            digits = _digits(limit, found)
            said = what.format(percent(found, digits))
            reasons.append(f"{said}, more than guard.{name} {percent(limit, digits)}")
    kept = guard["kept_share"]
    if not kept:
        reasons.append(
            "not one text is kept: tune the filter longer or on more clean pairs, or lower "
            "capfilt.rule.itm_threshold"
        )
    elif kept < limits.kept_share - SLACK:
        digits = _digits(limits.kept_share, kept)
        reasons.append(
            f"{percent(kept, digits)} of all texts are kept, less than guard.kept_share "
            f"{percent(limits.kept_share, digits)}"
        )
    before, limit = start.guard.get("kept_share") if start else None, limits.kept_drift
    if before is not None and abs(kept - before) > limit + SLACK:
        digits = _digits(limit, before, kept)
        reasons.append(
            f"the kept share went from {percent(before, digits)} in round {start.round} to "
            f"{percent(kept, digits)}, by more than guard.kept_drift {percent(limit, digits)}"
        )
    return reasons


def retrieval_reasons(
    guard: dict[str, float], limits: GuardSection, best: Round | None
) -> list[str]:
    """Why the new model may not be gone on from.

    It is compared with the best round and not with the one before, so that small losses do not add
    up unseen.

    Args:
        guard: what is known of the round.
        limits: that it must keep.
        best: the best round so far.
    """
    if best is None:
        return []
    before, now, limit = best.guard["retrieval_r1"], guard["retrieval_r1"], limits.retrieval_drop
    if before - now <= limit + SLACK:
        return []
    digits = _digits(limit, before, now)
    return [
        f"retrieval R@1 fell from {percent(before, digits)} in round {best.round} to "
        f"{percent(now, digits)}, by more than guard.retrieval_drop {percent(limit, digits)}"
    ]


def kept_shares(folder: Path) -> dict[str, float]:
    """Shares of candidate texts that a captioning-and-filtering run kept, by source and in all.

    Args:
        folder: its output.

    Raises:
        ConfigError: no readable summary.
    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        kept = {source: int(summary[source].get(KEPT, 0)) for source in (WEB, SYNTHETIC)}
        count = {source: sum(summary[source].values()) for source in (WEB, SYNTHETIC)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{path}: not a readable summary of captioning and filtering") from None
    shares = {f"kept_{source}_share": kept[source] / max(count[source], 1) for source in kept}
    return {"kept_share": sum(kept.values()) / max(sum(count.values()), 1), **shares}


def percent(share: float, digits: int = 1) -> str:
    """0.241 -> `24.1 %`."""
    return f"{100 * share:.{digits}f} %"


def _digits(limit: float, found: float, other: float = 0.0) -> int:
    """How many tell a share, or the way between two as they are shown, from a limit."""
    for digits in range(1, 9):
        way = abs(round(100 * found, digits) - round(100 * other, digits))
        if f"{way:.{digits}f}" != f"{100 * limit:.{digits}f}":
            break
    return digits
