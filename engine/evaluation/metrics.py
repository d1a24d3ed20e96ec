"""Scores: arrays and texts in, numbers out."""

import math
import re
from collections import Counter

import numpy as np

TOKEN = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")


def retrieval_recalls(
    scores: np.ndarray, image_of_text: np.ndarray, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at k both ways, as BLIP counts it: the best rank of a picture's texts.

    Args:
        scores: [images, texts].
        image_of_text: [texts] picture of each text.
        ks: cut-offs.

    Returns:
        text_to_image_rK and image_to_text_rK, shares in [0, 1].
    """
    columns = np.arange(scores.shape[1])
    own = scores[image_of_text, columns]
    text_ranks = (scores > own).sum(0)
    image_ranks = np.full(len(scores), np.iinfo(np.int64).max)
    ranks = (scores[image_of_text] > own[:, None]).sum(1)
    np.minimum.at(image_ranks, image_of_text, ranks)
    recalls = {f"text_to_image_r{k}": float((text_ranks < k).mean()) for k in ks}
    return recalls | {f"image_to_text_r{k}": float((image_ranks < k).mean()) for k in ks}


def chance_recalls(
    image_of_text: np.ndarray, images: int, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Expected recalls of a random order."""
    texts = len(image_of_text)
    per_image = np.bincount(image_of_text, minlength=images)
    chance = {f"text_to_image_r{k}": min(1.0, k / images) for k in ks}
    for k in ks:
        misses = [
            math.comb(texts - int(own), k) / math.comb(texts, k) if texts >= k else 0.0
            for own in per_image
        ]
        chance[f"image_to_text_r{k}"] = 1 - float(np.mean(misses))
    return chance


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return TOKEN.findall(text.lower())


def n_grams(tokens: list[str], longest: int = 4) -> list[Counter]:
    """Counts of the n-grams of each length 1 to `longest`."""
    return [
        Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        for n in range(1, longest + 1)
    ]


def cider_d(candidates: list[str], references: list[list[str]], sigma: float = 6.0) -> float:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726), document frequencies from the references.

    Args:
        candidates: one text a picture.
        references: texts of each picture.
        sigma: of the length penalty.

    Returns:
        Mean over pictures, in [0, 10].
    """
    counted = [[n_grams(words(text)) for text in group] for group in references]
    seen: Counter = Counter()
    for group in counted:
        seen.update({gram for grams in group for counts in grams for gram in counts})
    pictures = math.log(max(len(references), 1))

    def vector(grams: list[Counter]) -> tuple[list[dict], list[float], int]:
        weighted = [
            {gram: count * (pictures - math.log(max(1, seen[gram]))) for gram, count in c.items()}
            for c in grams
        ]
        norms = [math.sqrt(sum(value * value for value in one.values())) for one in weighted]
        return weighted, norms, sum(grams[1].values())

    total = 0.0
    for text, group in zip(candidates, counted, strict=True):
        ours, our_norms, our_length = vector(n_grams(words(text)))
        score = 0.0
        for grams in group:
            theirs, norms, length = vector(grams)
            penalty = math.exp(-((our_length - length) ** 2) / (2 * sigma**2))
            for n in range(4):
                dot = sum(
                    min(value, theirs[n].get(gram, 0.0)) * theirs[n].get(gram, 0.0)
                    for gram, value in ours[n].items()
                )
                if our_norms[n] and norms[n]:
                    score += dot / (our_norms[n] * norms[n]) * penalty / 4
        total += 10 * score / len(group)
    return total / max(len(candidates), 1)


def bleu(candidates: list[str], references: list[list[str]], longest: int = 4) -> float:
    """Corpus BLEU (Papineni et al. 2002), the closest reference's length for brevity; in [0, 1]."""
    matches, totals = [0] * longest, [0] * longest
    length = closest = 0
    for text, group in zip(candidates, references, strict=True):
        tokens = words(text)
        lengths = [len(words(reference)) for reference in group]
        length += len(tokens)
        closest += min(lengths, key=lambda other: (abs(other - len(tokens)), other))
        best = [Counter() for _ in range(longest)]
        for reference in group:
            for n, counts in enumerate(n_grams(words(reference), longest)):
                best[n] |= counts
        for n, counts in enumerate(n_grams(tokens, longest)):
            matches[n] += sum((counts & best[n]).values())
            totals[n] += sum(counts.values())
    if not all(matches):
        return 0.0
    precision = sum(math.log(m / t) for m, t in zip(matches, totals, strict=True)) / longest
    return math.exp(min(0.0, 1 - closest / length) + precision)


def word_f1(candidates: list[str], references: list[list[str]]) -> float:
    """Overlap of words with the closest reference, mean over pictures; in [0, 1]."""
    total = 0.0
    for text, group in zip(candidates, references, strict=True):
        ours, best = Counter(words(text)), 0.0
        for reference in group:
            theirs = Counter(words(reference))
            common = sum((ours & theirs).values())
            if common:
                best = max(best, 2 * common / (sum(ours.values()) + sum(theirs.values())))
        total += best
    return total / max(len(candidates), 1)
