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
# Of a picture so many texts are shown, and so many are judged anew as thresholds move; of all
# pictures together so many, which bounds a page.
MOST_TEXTS, MOST_JUDGED, MOST_IN_ALL = 6, 100, 40_000
PLAIN = {"matched", "unmatched"}
# Such texts are dropped whatever the thresholds are.
BY_TEXT = {"duplicate", "not_words"}


@dataclass(frozen=True)
class SampledText:
    """A candidate text, None where it is not shown; scores are None where it was not scored."""

    synthetic: bool
    text: str | None
    itm: float | None
    itc: float | None
    kept: bool
    reason: str


@dataclass(frozen=True)
class SampledPicture:
    """A picture with its texts, those that are shown first; `more` are not shown."""

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
        sample=_bounded([picture for _, picture in chosen]),
    )


def _bounded(sample: list[SampledPicture]) -> list[SampledPicture]:
    """The first pictures, whose texts are not too many in all."""
    ends = np.cumsum([len(picture.texts) for picture in sample])
    return sample[: int(np.searchsorted(ends, MOST_IN_ALL, "right"))]


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

    def place(row: int) -> tuple[bool, float]:
        """Web texts first; of either kind the best."""
        return bool(texts.synthetic[row]), -np.nan_to_num(texts.itm[row], nan=-1.0)

    # What is kept is shown, however it was ranked.
    rows = sorted(range(first, last), key=lambda row: (not texts.kept[row], *place(row)))
    shown, rest = sorted(rows[:MOST_TEXTS], key=place), rows[MOST_TEXTS:MOST_JUDGED]
    key, uid = texts.string("key", first), texts.string("uid", first)
    own = [_text(texts, row, True) for row in shown] + [_text(texts, row, False) for row in rest]
    return SampledPicture(texts.shard, key, uid, own, len(rows) - len(shown))


def _text(texts: Texts, row: int, is_shown: bool) -> SampledText:
    scored = bool(texts.scored[row])
    return SampledText(
        synthetic=bool(texts.synthetic[row]),
        text=texts.string("text", row) if is_shown else None,
        itm=float(texts.itm[row]) if scored else None,
        itc=float(texts.itc[row]) if scored else None,
        kept=bool(texts.kept[row]),
        reason=texts.reason_names[texts.reasons[row]],
    )


def _has(texts: Texts, reasons: set[str]) -> np.ndarray:
    """[N] whether a text's reason is one of some."""
    return np.array([name in reasons for name in texts.reason_names])[texts.reasons]
