"""All texts counted, and a sample of pictures that does not miss what is rare."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xxhash

from engine.report.capfilt_folder import Rule
from engine.report.capfilt_table import Texts
from engine.report.score_bins import ScoreBins

MOST_PICTURES = 2000
MOST_TEXTS = 6
PLAIN = {"matched", "unmatched"}
# Such texts are dropped whatever the thresholds are.
BY_TEXT = {"duplicate", "not_words"}


@dataclass(frozen=True)
class SampledText:
    """A candidate text; scores are None where it could not be scored."""

    synthetic: bool
    text: str
    itm: float | None
    itc: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class SampledPicture:
    """A picture with its texts, of which `more` are left out."""

    shard: str
    key: str
    uid: str
    texts: list[SampledText]
    more: int


@dataclass(frozen=True)
class Tally:
    """What all tables together say.

    Attributes:
        bins: scored texts and pictures by their scores.
        pictures: how many there are.
        kept_pictures: how many keep a text.
        web: texts by reason.
        synthetic: likewise.
        sample: pictures, in the order of a hash of their uids.
    """

    bins: ScoreBins
    pictures: int
    kept_pictures: int
    web: Counter[str]
    synthetic: Counter[str]
    sample: list[SampledPicture]


def tally(tables: Iterable[Texts], rule: Rule, most: int = MOST_PICTURES) -> Tally:
    """Count every text and draw at most `most` pictures.

    The draw is a function of the uids alone: in each class the pictures whose uids have the least
    hashes. Classes are what is kept (web, synthetic, both, nothing) and whether another reason
    than the matching score occurs; see `shares_of` for how many of each.
    """
    bins = ScoreBins(rule.itm_threshold, rule.itc_threshold)
    web: Counter[str] = Counter()
    synthetic: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    drawn: dict[int, list[tuple[int, SampledPicture]]] = {}
    kept_pictures = 0
    for texts in tables:
        judged_by_scores = texts.scored & ~_has(texts, BY_TEXT)
        bins.add(
            texts.itm[judged_by_scores],
            texts.itc[judged_by_scores],
            texts.synthetic[judged_by_scores],
            texts.pictures[judged_by_scores],
        )
        for counter, mine in ((web, ~texts.synthetic), (synthetic, texts.synthetic)):
            counts = np.bincount(texts.reasons[mine], minlength=len(texts.reason_names))
            counter.update(dict(zip(texts.reason_names, counts.tolist(), strict=True)))
        kept_pictures += int(np.logical_or.reduceat(texts.kept, texts.starts).sum())
        _draw(texts, drawn, sizes, most)
    bins.trim()
    wanted = shares_of(sizes, most)
    chosen = [one for kind, some in drawn.items() for one in some[: wanted[kind]]]
    chosen.sort(key=lambda one: (one[0], one[1].shard, one[1].key))
    return Tally(
        bins=bins,
        pictures=sum(sizes.values()),
        kept_pictures=kept_pictures,
        web=+web,
        synthetic=+synthetic,
        sample=[picture for _, picture in chosen],
    )


def shares_of(sizes: Counter[int], most: int) -> dict[int, int]:
    """How many pictures of each class are shown.

    Half of the places go to the classes evenly, so that a rare one is seen; the other half, and
    what a small class leaves, by size.
    """
    wanted = {kind: min(size, most // (2 * len(sizes))) for kind, size in sizes.items()}
    for kind, _ in sorted(sizes.items(), key=lambda one: (one[1], one[0])):
        # The smallest first: what it cannot fill is left for the larger ones.
        open_places = most - sum(wanted.values())
        larger = sum(n for k, n in sizes.items() if (n, k) >= (sizes[kind], kind))
        share = round(open_places * sizes[kind] / max(larger, 1))
        wanted[kind] = min(sizes[kind], wanted[kind] + share)
    return wanted


def _draw(
    texts: Texts,
    drawn: dict[int, list[tuple[int, SampledPicture]]],
    sizes: Counter[int],
    most: int,
) -> None:
    """Keep, in each class, the `most` pictures of the least hashes so far."""
    odd = ~_has(texts, PLAIN)
    parts = (texts.kept & ~texts.synthetic, texts.kept & texts.synthetic, odd)
    kinds = sum(
        np.logical_or.reduceat(part, texts.starts).astype(np.int64) << bit
        for bit, part in enumerate(parts)
    )
    hashes = np.array([xxhash.xxh3_64_intdigest(uid) for uid in texts.uids()], np.uint64)
    for kind, size in zip(*np.unique(kinds, return_counts=True), strict=True):
        kind = int(kind)
        sizes[kind] += int(size)
        before = drawn.get(kind, [])
        mine = np.flatnonzero(kinds == kind)
        mine = mine[np.argsort(hashes[mine], kind="stable")][:most]
        if len(before) == most:
            mine = mine[hashes[mine] < np.uint64(before[-1][0])]
        new = [(int(hashes[number]), _picture(texts, int(number))) for number in mine]
        drawn[kind] = sorted([*before, *new], key=lambda one: one[0])[:most]


def _picture(texts: Texts, number: int) -> SampledPicture:
    first = int(texts.starts[number])
    last = int(texts.starts[number + 1]) if number + 1 < len(texts.starts) else len(texts.itm)
    rows = range(first, last)
    # The best synthetic texts stand first, after the web texts.
    rows = sorted(rows, key=lambda r: (texts.synthetic[r], -np.nan_to_num(texts.itm[r], nan=-1.0)))
    shown = []
    for row in rows[:MOST_TEXTS]:
        scored = bool(texts.scored[row])
        shown.append(
            SampledText(
                synthetic=bool(texts.synthetic[row]),
                text=texts.string("text", row),
                itm=float(texts.itm[row]) if scored else None,
                itc=float(texts.itc[row]) if scored else None,
                kept=bool(texts.kept[row]),
                reason=texts.reason_names[texts.reasons[row]],
            )
        )
    key, uid = texts.string("key", first), texts.string("uid", first)
    return SampledPicture(texts.shard, key, uid, shown, len(rows) - len(shown))


def _has(texts: Texts, reasons: set[str]) -> np.ndarray:
    """[N] whether a text's reason is one of some."""
    return np.array([name in reasons for name in texts.reason_names])[texts.reasons]
