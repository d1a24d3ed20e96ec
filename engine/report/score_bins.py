"""Texts and pictures counted by both scores at once, so that any two thresholds give exact counts.

Bins begin at hundredths, and at the run's own thresholds. A score belongs to the last bin that
begins at or below it: it passes the threshold at which bin `n` begins when its bin is `n` or later.
"""

from collections.abc import Iterable

import numpy as np

PARTS = ("web", "synthetic", "pictures")
MOST_ROWS, MOST_COLUMNS = 101, 60
# Hundredths.
WIDE = 50


class ScoreBins:
    """Counts over matching probability (rows) and cosine (columns).

    Args:
        itm: the run's threshold of the matching probability.
        itc: the run's threshold of the cosine; None where it has none.
    """

    def __init__(self, itm: float, itc: float | None) -> None:
        self.itm = _edges(range(101), itm)
        self.itc = _edges(range(-100, 101), itc)
        self._own = {"itm": itm, "itc": itc}
        shape = (len(self.itm), len(self.itc))
        self.counts = {part: np.zeros(shape, np.int64) for part in PARTS}

    def add(
        self, itm: np.ndarray, itc: np.ndarray, synthetic: np.ndarray, pictures: np.ndarray
    ) -> None:
        """Count texts.

        Args:
            itm: [N] matching probabilities.
            itc: [N] cosines.
            synthetic: [N] whether a text is synthetic.
            pictures: [N] number of the picture a text belongs to, ascending.
        """
        rows, columns = bins(self.itm, itm), bins(self.itc, itc)
        self._count("web", rows[~synthetic], columns[~synthetic], 1)
        self._count("synthetic", rows[synthetic], columns[synthetic], 1)
        # A picture stays while one of its texts passes both: it fills the union of the rectangles
        # below its texts. Only those matter which no other text of it beats in both scores; sorted,
        # neighbours overlap in the rectangle below the lesser of either score.
        order = np.lexsort((-columns, -rows, pictures))
        rows, columns, pictures = rows[order], columns[order], pictures[order]
        reach = pictures * (len(self.itc) + 1) + columns + 1
        before = np.maximum.accumulate(np.concatenate([[-1], reach[:-1]]))
        front = reach > np.maximum(before, pictures * (len(self.itc) + 1))
        rows, columns, pictures = rows[front], columns[front], pictures[front]
        self._count("pictures", rows, columns, 1)
        same = pictures[1:] == pictures[:-1]
        self._count("pictures", rows[1:][same], columns[:-1][same], -1)

    def _count(self, part: str, rows: np.ndarray, columns: np.ndarray, sign: int) -> None:
        counts = self.counts[part]
        flat = np.bincount(rows * counts.shape[1] + columns, minlength=counts.size)
        counts += sign * flat.reshape(counts.shape)

    def trim(self) -> None:
        """Leave rows and columns out that are not in use, and join columns until there are few."""
        used = self.counts["web"] + self.counts["synthetic"]
        for place, name, most in ((0, "itm", MOST_ROWS), (1, "itc", MOST_COLUMNS)):
            edges = getattr(self, name)
            kept = _fitted(edges[used.any(1 - place)], edges[0], self._own[name], most)
            places = np.searchsorted(edges, kept)
            setattr(self, name, kept)
            for part, counts in self.counts.items():
                self.counts[part] = np.add.reduceat(counts, places, axis=place)


def _fitted(used: np.ndarray, least: float, own: float | None, most: int) -> np.ndarray:
    """Edges in even steps around those in use and the run's own; two at least, up to 1."""
    within = [*used, *([] if own is None else [own])] or [0.0]
    # What is 1 lies above the last edge.
    first, last = min(int(np.floor(min(within) * 100)), 99), int(np.floor(max(within) * 100)) + 1
    step = next(s for s in (1, 2, 5, 10) if s == 10 or last - first <= s * most)
    # A wide axis ends at tenths.
    whole = 10 if last - first > WIDE else step
    hundredths = range(first // whole * whole, -(-last // whole) * whole + 1, step)
    return _edges([n for n in hundredths if round(least * 100) <= n <= 100], own)


def bins(edges: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """[N] numbers of the bins that scores belong to; those below all edges are in the first."""
    return np.maximum(np.searchsorted(edges, scores, "right") - 1, 0)


def _edges(hundredths: Iterable[int], own: float | None) -> np.ndarray:
    """Sorted edges. A hundredth is the number that a user's `0.07` is read as."""
    return np.array(sorted({n / 100 for n in hundredths} | ({own} if own is not None else set())))
