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
        limit = getattr(limits, name)
        if guard[name] < limit:
            said = what.format(percent(guard[name]))
            reasons.append(f"{said}, less than guard.{name} {percent(limit)}")
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
    if bigrams < least:
        reasons.append(
            f"of the synthetic captions' bigrams {percent(bigrams)} are distinct, of the web "
            f"captions' {percent(guard['web_distinct_2'])}: less than guard.diversity "
            f"{percent(limits.diversity)} of that"
        )
    if guard["unseen_words"] > limits.unseen_words:
        reasons.append(
            f"of the synthetic captions' words {percent(guard['unseen_words'])} are in no clean "
            f"caption, more than guard.unseen_words {percent(limits.unseen_words)}"
        )
    if guard["commonest_share"] > limits.commonest_share:
        reasons.append(
            f"the commonest synthetic caption makes up {percent(guard['commonest_share'])}, more "
            f"than guard.commonest_share {percent(limits.commonest_share)}"
        )
    kept = guard["kept_share"]
    if not kept:
        reasons.append(
            "not one text is kept: tune the filter longer or on more clean pairs, or lower "
            "capfilt.rule.itm_threshold"
        )
    elif kept < limits.kept_share:
        reasons.append(
            f"{percent(kept)} of all texts are kept, less than guard.kept_share "
            f"{percent(limits.kept_share)}"
        )
    before = start.guard.get("kept_share") if start else None
    if before is not None and abs(kept - before) > limits.kept_drift:
        reasons.append(
            f"the kept share went from {percent(before)} in round {start.round} to "
            f"{percent(kept)}, by more than guard.kept_drift {percent(limits.kept_drift)}"
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
    before, now = best.guard["retrieval_r1"], guard["retrieval_r1"]
    if before - now <= limits.retrieval_drop:
        return []
    return [
        f"retrieval R@1 fell from {percent(before)} in round {best.round} to {percent(now)}, by "
        f"more than guard.retrieval_drop {percent(limits.retrieval_drop)}"
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


def percent(share: float) -> str:
    """0.241 -> `24.1 %`."""
    return f"{100 * share:.1f} %"
