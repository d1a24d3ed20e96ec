"""What the page's script works with: sampled pictures with their texts, and all counts by score."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from engine.report.capfilt_folder import CapFiltFolder
from engine.report.capfilt_samples import SampledPicture, SampledText, Tally
from engine.report.embedding import as_json
from engine.report.run_folder import clip
from engine.report.score_bins import PARTS, ScoreBins, bins
from engine.report.word_diff import mark_own

PREFIX = "data:image/webp;base64,"
# Characters of a text that are shown, longest first; hostile sets need the shorter ones.
LENGTHS = (300, 160, 80, 40, 20)
# Of the characters of a page, at most so many are texts and counts.
TEXT_SHARE = 0.5


class SampleData:
    """The data of a page, built in two steps: what the texts leave is room for pictures.

    Args:
        folder: the run.
        tally: its counts and sample.
        command: parts of what applies another rule to the run, up to the thresholds.
        room: bytes of the page that all data may take.
    """

    def __init__(self, folder: CapFiltFolder, tally: Tally, command: list[str], room: int) -> None:
        self.tally = tally
        self._reasons = sorted({t.reason for p in tally.sample for t in p.texts})
        self._shards = sorted({picture.shard for picture in tally.sample})
        rule = folder.rule
        off = 0 if rule.itc_threshold is None else _index(tally.bins.itc, rule.itc_threshold)
        self._shared = {
            "edges": {"itm": tally.bins.itm.tolist(), "itc": tally.bins.itc.tolist()},
            "own": {"itm": _index(tally.bins.itm, rule.itm_threshold), "itc": off},
            "counts": {part: tally.bins.counts[part].ravel().tolist() for part in PARTS},
            "rule": {
                "best_synthetic": rule.best_synthetic,
                "at_most": rule.at_most,
                "rank_by": rule.rank_by,
            },
            "reasons": [clip(reason, 80) for reason in self._reasons],
            "shards": [clip(shard, 80) for shard in self._shards],
            "command": command,
        }
        for longest in LENGTHS:
            self._pictures = [self._picture(one, longest) for one in tally.sample]
            self.room = room - len(self.dumped([None] * len(tally.sample)).encode())
            if self.room >= room * (1 - TEXT_SHARE):
                break

    def dumped(self, thumbnails: Sequence[str | None]) -> str:
        """The data as JSON for the page.

        Args:
            thumbnails: a WebP data URI or None for each sampled picture.
        """
        pictures = [
            [*picture, (uri or "").removeprefix(PREFIX)]
            for picture, uri in zip(self._pictures, thumbnails, strict=True)
        ]
        return as_json(self._shared | {"pictures": pictures})

    def _picture(self, picture: SampledPicture, longest: int) -> list[Any]:
        shown = [(t, clip(t.text, longest)) for t in picture.texts if t.text is not None]
        texts = []
        for text, words in shown:
            others = [w for one, w in shown if one.synthetic != text.synthetic]
            texts.append(self._text(text, mark_own(words, others)))
        texts += [self._text(text, 0) for text in picture.texts[len(shown) :]]
        key, uid = clip(picture.key, longest), clip(picture.uid, longest)
        shard = self._shards.index(picture.shard)
        return [key, "" if uid == key else uid, shard, picture.more, texts]

    def _text(self, text: SampledText, pieces: list[str] | Literal[0]) -> list[Any]:
        """Source, pieces (0: not shown), bins and ten-thousandths of both scores (-1: none),
        verdict, reason."""
        edges: ScoreBins = self.tally.bins
        numbers = [-1, -1, 0, 0]
        if text.itm is not None and text.itc is not None:
            numbers = [
                int(bins(edges.itm, np.array([text.itm]))[0]),
                int(bins(edges.itc, np.array([text.itc]))[0]),
                # Rounded down: what is shown as 0.70 passes 0.70.
                _parts(text.itm),
                _parts(text.itc),
            ]
        verdict = [int(text.kept), self._reasons.index(text.reason)]
        return [int(text.synthetic), pieces, *numbers, *verdict]


def _parts(score: float) -> int:
    return int(np.floor(min(max(score, -99.0), 99.0) * 10_000))


def _index(edges: np.ndarray, own: float) -> int:
    return int(np.searchsorted(edges, own))
