"""How well a filter tells right texts from wrong ones: held-out ones, and the same dealt out."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from engine.capfilt.config import CapFiltConfig
from engine.capfilt.filter import PairFilter
from engine.capfilt.rule import KEPT, WEB, Candidate, judge
from engine.config import ConfigError, DataSection, ModelSection
from engine.data.counter import key_of, permuted
from engine.data.evaluation_set import EvaluationSet
from engine.data.open_source import open_source
from engine.inference import LoadedBlip, load

WRONG_TEXTS = 21


@dataclass(frozen=True)
class Labelled:
    """Scored texts of which it is known whether they describe their picture.

    Attributes:
        scores: matching probabilities.
        kept: whether the rule keeps each.
        right: whether each describes its picture.
    """

    scores: np.ndarray
    kept: np.ndarray
    right: np.ndarray

    def quality(self) -> dict[str, float]:
        """Precision and recall of what is kept, and the area under the ROC curve.

        Right and wrong texts weigh alike, however many there are of each: precision is
        r / (r + w) with the kept shares r of the right and w of the wrong ones, 0 where nothing is
        kept. The area is the chance that a right text scores above a wrong one, equal scores
        counted as half (Hanley and McNeil 1982).
        """
        kept_right = float(self.kept[self.right].mean())
        kept_wrong = float(self.kept[~self.right].mean())
        kept = kept_right + kept_wrong
        return {
            "filter_precision": kept_right / kept if kept else 0.0,
            "filter_recall": kept_right,
            "filter_auc": _area(self.scores[self.right], self.scores[~self.right]),
        }


def _area(right: np.ndarray, wrong: np.ndarray) -> float:
    ordered = np.sort(wrong)
    below = np.searchsorted(ordered, right, "left")
    not_above = np.searchsorted(ordered, right, "right")
    return float((below + not_above).sum() / (2 * len(right) * len(wrong)))


def wrong_texts(texts: list[list[str]], seed: int) -> list[list[str]]:
    """For every picture the texts of another one, a fixed function of the seed.

    Pictures stand in a circle, in permuted order, and each gets its neighbour's texts; a text that
    is word for word one of its own is left out.

    Args:
        texts: of each picture.
        seed: of the order.
    """
    order = permuted(len(texts), key_of(seed, WRONG_TEXTS))
    given: list[list[str]] = [[] for _ in texts]
    for place, picture in enumerate(order.tolist()):
        neighbour = int(order[(place + 1) % len(order)])
        given[picture] = [text for text in texts[neighbour] if text not in texts[picture]]
    return given


def judge_filter(
    config: CapFiltConfig, data: DataSection, device: str, seed: int
) -> dict[str, float]:
    """Precision, recall and area of a captioning-and-filtering run's filter on held-out pairs.

    Args:
        config: of that run; its filter, its precision and its rule are taken.
        data: with the held-out pairs.
        device: that computes.
        seed: of the wrong texts.

    Raises:
        ConfigError: no usable pairs, or none that could be told apart.
    """
    section = ModelSection(image_size=config.model.image_size, vocabulary=config.model.vocabulary)
    place, precision = str(config.filter), config.precision
    blip = load(place, device=device, precision=precision, section=section, frozen=True)
    return score_labelled(blip, config, data, seed).quality()


@torch.no_grad()
def score_labelled(
    blip: LoadedBlip, config: CapFiltConfig, data: DataSection, seed: int
) -> Labelled:
    """The filter's scores of right and wrong texts of the held-out pictures; see `judge_filter`."""
    scorer = PairFilter(blip, config.data.max_tokens)
    source = open_source(data.eval or "", data.image_root)
    limits = (config.data.max_words, config.data.max_pixels)
    pairs = EvaluationSet(source, blip.model.config.image_size, *limits)
    states = []
    with blip.autocast():
        for views in pairs.views(config.batch_size):
            states.append(blip.model.encode_image(views.to(blip.device)))
    states = [some[own.places] for some, own in zip(states, pairs.own, strict=True)]
    right: list[list[str]] = [[] for _ in pairs.keys]
    for text, picture in zip(pairs.captions, pairs.caption_image, strict=True):
        right[picture].append(text)
    wrong = wrong_texts(right, seed)
    if not any(wrong):
        raise ConfigError(f"data.eval {data.eval}: its pictures have one text, none can be wrong")
    # Of a picture's texts a run may keep only the best; here each stands for itself.
    rule = replace(config.rule, best_synthetic=None, at_most=None, drop_duplicates=False)
    scores, kept, labels = [], [], []
    for label, texts in ((True, right), (False, wrong)):
        start = 0
        for batch in states:
            many = texts[start : start + len(batch)]
            start += len(batch)
            for itm, itc in (pair for one in scorer.scores(batch, many) for pair in one):
                scores.append(itm)
                kept.append(judge([Candidate(WEB, "", itm, itc)], rule) == [KEPT])
                labels.append(label)
    return Labelled(np.array(scores), np.array(kept), np.array(labels))
