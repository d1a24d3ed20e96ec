"""How well a filter tells swapped captions from true ones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from engine.bootstrap.labelled import Labelled
from engine.capfilt.config import RuleSection
from engine.capfilt.filter import PairFilter
from engine.capfilt.pictures import batches
from engine.capfilt.rule import WEB
from engine.capfilt.table import from_bytes
from engine.config import RunConfig
from engine.data.captions import clean_caption
from engine.data.pack import shards_of
from engine.data.shards import Shards
from engine.data.whole_views import brought
from engine.inference import load

# Matching probability and cosine of a pair.
Scores = tuple[float, float]


def judge_by_record(
    scores: Mapping[str, Scores], swapped: Mapping[str, bool], rule: RuleSection
) -> dict[str, float]:
    """What a filter is worth against the record of the noise.

    Args:
        scores: by uid.
        swapped: by uid; pairs that were not scored are left out.
        rule: whose thresholds a pair that is kept reaches.

    Returns:
        filter_auc, filter_precision and filter_recall as `Labelled.quality` defines them,
        filter_auc_itc of the cosine, and filter_kept_swapped, the kept share of the swapped.
    """
    uids = [uid for uid in swapped if uid in scores]
    right = np.array([not swapped[uid] for uid in uids])
    itm, itc = np.array([scores[uid] for uid in uids]).T
    kept = itm >= rule.itm_threshold
    if rule.itc_threshold is not None:
        kept &= itc >= rule.itc_threshold
    return {
        **Labelled(itm, kept, right).quality(),
        "filter_auc_itc": Labelled(itc, kept, right).quality()["filter_auc"],
        "filter_kept_swapped": float(kept[~right].mean()),
    }


def web_scores(capfilt: Path) -> dict[str, Scores]:
    """The scores of the web texts in the table of a captioning-and-filtering run, by uid."""
    found = {}
    for path in sorted((capfilt / "table").glob("*.parquet")):
        for picture in from_bytes(path.read_bytes(), str(path)):
            for one in picture.candidates:
                if one.source == WEB and one.itm is not None and one.itc is not None:
                    found[picture.uid] = (one.itm, one.itc)
    return found


@torch.no_grad()
def score_shards(config: RunConfig, model: Path, folder: Path) -> dict[str, Scores]:
    """Scores of stored pairs by any weights with a text encoder, by uid.

    Args:
        config: picture size, precision and batch of the evaluation.
        model: run folder of the weights.
        folder: of the shards.
    """
    section = config.model
    device, precision = config.device, config.precision
    blip = load(model, device=device, precision=precision, section=section, frozen=True)
    judge = PairFilter(blip, config.data.max_tokens)
    reading = {"workers": max(1, config.data.workers), "max_pixels": config.data.max_pixels}
    size, found = blip.model.config.image_size, {}
    for path in shards_of([str(folder)]):
        shards, batch = Shards([path]), config.evaluate.batch_size
        for good, _ in batches(shards, batch, {size}, blip.device, **reading):
            pictures = [picture.carried[size] for picture in good]
            views = brought(pictures, size, blip.device)
            with blip.autocast():
                states = blip.model.encode_image(views)
            words = config.data.max_words
            texts = [[clean_caption(picture.captions[0], words)] for picture in good]
            scored = judge.scores(states, texts)
            pairs = zip(good, scored, strict=True)
            found |= {picture.uid: scores[0] for picture, scores in pairs}
    return found
