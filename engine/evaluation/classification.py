"""Zero-shot classification: the class whose name, in sentences, is most like the picture.

The protocol of CLIP (Radford et al. 2021, section 3.1.4): a class is the mean of its name's
features in several sentences, at length one again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from engine.config import ConfigError, EvaluateSection
from engine.data.captions import clean_caption
from engine.data.evaluation_set import EvaluationSet
from engine.data.images import BadSample
from engine.encoding import refuse_not_finite
from engine.evaluation.cases import Case, Picture, best_and_worst
from engine.evaluation.metrics import ranked_hits
from engine.inference import LoadedBlip
from engine.share import Share

TEMPLATES = (
    "{}",
    "a picture of {}",
    "a picture of a {}",
    "a picture of the {}",
    "a photo of a {}",
    "a drawing of a {}",
    "an image of a {}",
    "there is a {}",
)
# Encoded at once.
SENTENCES = 256


@torch.no_grad()
def evaluate_classification(
    blip: LoadedBlip, pairs: EvaluationSet, settings: EvaluateSection
) -> dict[str, Any]:
    """Accuracy on pictures whose text is their class.

    With `evaluate.classes` a picture is of the one class whose words its texts hold; pictures of
    none or of several are left out.

    Returns:
        metrics, chance, count, examples and the confusion matrix (rows are the true
        classes), as `results.json` holds them.

    Raises:
        ConfigError: no usable picture, fewer than two classes, or a model whose features are not
            finite.
    """
    with blip.autocast():
        batches = pairs.views(settings.batch_size)
        states = (blip.model.encode_image(views.to(blip.device)) for views in batches)
        seen = [blip.model.image_feature(some) for some in states]
    pictures = torch.stack(pairs.gathered(seen))
    texts: list[list[str]] = [[] for _ in pairs.keys]
    for text, picture in zip(pairs.captions, pairs.caption_image, strict=True):
        texts[picture].append(text)
    names = _named(settings.classes) if settings.classes else _own(pairs.keys, texts)
    if len(names) < 2:
        raise ConfigError(f"{len(names)} class: classification needs two, see evaluate.classes")
    labels = np.array([class_of(names, some, bool(settings.classes)) for some in texts])
    used = np.flatnonzero(labels >= 0)
    if not len(used):
        raise ConfigError("no picture's text holds the words of just one of evaluate.classes")
    classes = class_features(blip, names, settings.templates or TEMPLATES, pairs.share)
    if not pairs.share.here.is_main:
        return {}
    scores = pictures[torch.from_numpy(used)] @ classes.T
    refuse_not_finite(scores, "features")
    return {
        **_judged(scores.float().cpu().numpy(), labels[used], names),
        "count": len(used),
        "left_out": len(labels) - len(used),
        "examples": _examples(pairs, used, labels, scores, names),
        "cases": _cases(pairs, used, labels[used], scores.float().numpy(), names),
    }


def class_features(
    blip: LoadedBlip, names: Sequence[str], templates: Sequence[str], share: Share
) -> torch.Tensor:
    """Unit vectors [K, E]: each class's mean over the sentences that its name is put into.

    Args:
        blip: with a text encoder.
        names: K of classes.
        templates: sentences with `{}` in the place of the name.
        share: of this process, which encodes some of the sentences. Collective.
    """
    sentences = [template.replace("{}", name) for name in names for template in templates]
    parts = share.parts(len(sentences), SENTENCES)
    mine = {part.start: blip.embed_texts(sentences[part.start : part.stop]) for part in parts}
    mine = {start: features.cpu() for start, features in mine.items()}
    features = torch.cat(list(share.gathered(mine).values()))
    return F.normalize(features.view(len(names), len(templates), -1).mean(1), dim=-1)


def _judged(scores: np.ndarray, labels: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Metrics of [N, K] scores; equal scores count as drawn in random order."""
    rows, many = np.arange(len(labels)), len(names)
    own = scores[rows, labels][:, None]
    above, equal = (scores > own).sum(1), (scores == own).sum(1)
    first = ranked_hits(above, equal, np.ones_like(above), 1)
    confusion = np.zeros((many, many), np.int64)
    np.add.at(confusion, (labels, scores.argmax(1)), 1)
    seen = confusion.sum(1) > 0
    by_class = [float(first[labels == number].mean()) for number in np.flatnonzero(seen)]
    return {
        "metrics": {
            "accuracy_top1": float(first.mean()),
            "accuracy_top5": float(ranked_hits(above, equal, np.ones_like(above), 5).mean()),
            "accuracy_mean_of_classes": float(np.mean(by_class)),
        },
        "chance": {
            "accuracy_top1": 1 / many,
            "accuracy_top5": min(1.0, 5 / many),
            "accuracy_mean_of_classes": 1 / many,
        },
        "classes": names,
        "confusion": confusion.tolist(),
    }


def _named(classes: list[str]) -> list[str]:
    """Names as they are looked for.

    Raises:
        ConfigError: a name with nothing in it, or one that comes twice.
    """
    try:
        names = [clean_caption(name, 30) for name in classes]
    except BadSample as bad:
        raise ConfigError(f"evaluate.classes: a name is not usable: {bad.reason}") from None
    for number, name in enumerate(names):
        if name in names[:number]:
            raise ConfigError(f"evaluate.classes: {name!r} is there twice")
    return names


def _own(keys: list[str], texts: list[list[str]]) -> list[str]:
    """The classes that the pictures' texts name.

    Raises:
        ConfigError: a picture with several texts, which are then no names of classes.
    """
    for key, some in zip(keys, texts, strict=True):
        if len(set(some)) > 1:
            raise ConfigError(
                f"{key} has {len(set(some))} texts: set evaluate.classes to the names to look for"
            )
    return sorted({some[0] for some in texts})


def class_of(names: list[str], texts: list[str], within: bool) -> int:
    """Number of a picture's class, -1 for none or several.

    Args:
        names: of the classes.
        texts: the picture's, cleaned.
        within: look for the names' words in the texts; else a text is a name.
    """
    if not within:
        return names.index(texts[0])
    spaced = [f" {' '.join(text.replace(',', ' ').split())} " for text in texts]
    found = [n for n, name in enumerate(names) if any(f" {name} " in text for text in spaced)]
    return found[0] if len(found) == 1 else -1


def _examples(
    pairs: EvaluationSet,
    used: np.ndarray,
    labels: np.ndarray,
    scores: torch.Tensor,
    names: list[str],
    count: int = 24,
) -> list[dict[str, Any]]:
    chosen = np.linspace(0, len(used) - 1, min(count, len(used))).astype(int).tolist()
    best = scores[chosen].topk(min(5, len(names)), 1)
    return [
        {
            "key": pairs.keys[used[row]],
            "image_id": pairs.image_ids[used[row]],
            "truth": names[labels[used[row]]],
            "top": [names[number] for number in numbers],
            "scores": values,
        }
        for row, numbers, values in zip(
            chosen, best.indices.tolist(), best.values.float().tolist(), strict=True
        )
    ]


def _cases(
    pairs: EvaluationSet, used: np.ndarray, labels: np.ndarray, scores: np.ndarray, names: list[str]
) -> dict[str, Any]:
    """Pictures by how far their class is ahead of the others, in cosine."""
    rows = np.arange(len(labels))
    others = scores.copy()
    others[rows, labels] = -np.inf
    margins = scores[rows, labels] - others.max(1)

    def described(number: int) -> tuple[Case, list[Picture]]:
        margin = margins[number]
        case = {"score": f"{'ahead' if margin > 0 else 'behind'} by {abs(margin):.3f}"}
        case |= {"output": names[scores[number].argmax()], "truth": [names[labels[number]]]}
        return case, [("", int(used[number]), False)]

    return best_and_worst(pairs, margins.tolist(), rows.tolist(), described)
