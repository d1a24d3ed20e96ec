"""Scores: arrays and texts in, numbers out."""

import math
import re
from collections import Counter

import numpy as np

# Letters and digits of any script.
TOKEN = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
# The Penn Treebank's tokens as captions hold them; see `treebank_words`.
JOINED = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b")
CLITIC = re.compile(r"(?<=[^\W_])(n['’]t|['’](?:s|m|d|re|ve|ll))\b")
TREEBANK = re.compile(
    r"n't|'(?:s|m|d|re|ve|ll)\b"
    r"|(?:[a-z]\.){2,}(?!\w)|\b(?:mr|mrs|ms|dr|st|jr|sr|vs)\."
    r"|\d+(?:[.,:/]\d+)+|[^\W_]+(?:(?:[-/._]|'(?=[a-z]))[^\W_]+)*|[&#$%+=@*/()\[\]{}]"
)
BRACKETS = dict(zip("()[]{}", ["-lrb-", "-rrb-", "-lsb-", "-rsb-", "-lcb-", "-rcb-"], strict=True))


def retrieval_recalls(
    scores: np.ndarray,
    image_of_text: np.ndarray,
    ks: tuple[int, ...] = (1, 5, 10),
    to_text: np.ndarray | None = None,
) -> dict[str, float]:
    """Recall at k both ways, as BLIP counts it: the best rank of a picture's texts.

    Equal scores count as drawn in random order, so that a model that gives every pair the same
    score reaches chance, no more.

    Args:
        scores: [images, texts], finite.
        image_of_text: [texts] picture of each text.
        ks: cut-offs.
        to_text: scores by which texts are found, where they differ from those for pictures.

    Returns:
        text_to_image_rK and image_to_text_rK, shares in [0, 1].
    """
    texts = scores.shape[1]
    own = scores[image_of_text, np.arange(texts)]
    above, equal = (scores > own).sum(0), (scores == own).sum(0)
    one = np.ones(texts, np.int64)
    recalls = {f"text_to_image_r{k}": _hits(above, equal, one, k) for k in ks}
    scores = scores if to_text is None else to_text
    above, equal, right = _best_of_texts(scores, image_of_text)
    return recalls | {f"image_to_text_r{k}": _hits(above, equal, right, k) for k in ks}


def _best_of_texts(
    scores: np.ndarray, image_of_text: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each picture: texts above the best of its own, texts equal to it, and its own of those."""
    images, texts = scores.shape
    own = scores[image_of_text, np.arange(texts)]
    best = np.full(images, -np.inf, scores.dtype)
    np.maximum.at(best, image_of_text, own)
    above, equal = (scores > best[:, None]).sum(1), (scores == best[:, None]).sum(1)
    right = np.bincount(image_of_text[own == best[image_of_text]], minlength=images)
    return above, equal, right


def retrieval_ranks(
    scores: np.ndarray, image_of_text: np.ndarray, to_text: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 1 of each text's picture, and of the best of each picture's texts.

    Among equal scores the expected rank of a random order: the first of r right ones among n lies
    at (n + 1) / (r + 1). Arguments as in `retrieval_recalls`.
    """
    own = scores[image_of_text, np.arange(scores.shape[1])]
    to_image = (scores > own).sum(0) + ((scores == own).sum(0) + 1) / 2
    scores = scores if to_text is None else to_text
    above, equal, right = _best_of_texts(scores, image_of_text)
    return to_image, above + (equal + 1) / (right + 1)


def chance_recalls(
    image_of_text: np.ndarray, images: int, ks: tuple[int, ...] = (1, 5, 10)
) -> dict[str, float]:
    """Expected recalls of a random order."""
    right = np.bincount(image_of_text, minlength=images)
    above, equal = np.zeros_like(right), np.full_like(right, len(image_of_text))
    chance = {f"text_to_image_r{k}": min(1.0, k / images) for k in ks}
    return chance | {f"image_to_text_r{k}": _hits(above, equal, right, k) for k in ks}


def _hits(above: np.ndarray, equal: np.ndarray, right: np.ndarray, k: int) -> float:
    """Share of queries with a right answer among the first k."""
    shares = ranked_hits(above, equal, right, k).tolist()
    return math.fsum(shares) / len(shares)


def ranked_hits(above: np.ndarray, equal: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """Probability [N] that a query has a right answer among the first k.

    A query has `above` better answers, all wrong, and then `equal` ones of which `right` are right,
    in random order: the n places left to them hold none with probability
    C(equal - right, n) / C(equal, n).
    """
    shares = []
    for wrong_above, tied, good in zip(above.tolist(), equal.tolist(), right.tolist(), strict=True):
        n = min(max(k - wrong_above, 0), tied)
        orders = math.comb(tied, n)
        shares.append((orders - math.comb(tied - good, n)) / orders)
    return np.array(shares)


def words(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return TOKEN.findall(text.lower())


def treebank_words(text: str) -> list[str]:
    """Tokens as COCO's evaluation has them: hyphens join, 's and n't are apart, no punctuation.

    The Penn Treebank tokenizer (Stanford CoreNLP 3.4.1) with lower case, without the punctuation
    that coco-caption takes out; brackets become -lrb- and -rrb- there, which it does not. By rules
    for what captions hold, so that no Java is needed.
    """
    text = JOINED.sub(lambda found: " ".join(filter(None, found.groups())), text.lower())
    text = CLITIC.sub(lambda found: " " + found[0].replace("’", "'"), text)
    return [BRACKETS.get(token, token) for token in TREEBANK.findall(text)]


def n_grams(tokens: list[str], longest: int = 4) -> list[Counter]:
    """Counts of the n-grams of each length 1 to `longest`."""
    return [
        Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
        for n in range(1, longest + 1)
    ]


def cider_d(candidates: list[str], references: list[list[str]], sigma: float = 6.0) -> float:
    """Mean of `cider_d_each` over pictures, in [0, 10]."""
    scores = cider_d_each(candidates, references, sigma)
    return math.fsum(scores) / max(len(scores), 1)


def cider_d_each(
    candidates: list[str], references: list[list[str]], sigma: float = 6.0
) -> list[float]:
    """CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726), document frequencies from the references.

    Args:
        candidates: one text a picture.
        references: texts of each picture.
        sigma: of the length penalty.

    Returns:
        A score in [0, 10] of each picture.
    """
    counted = [[n_grams(treebank_words(text)) for text in group] for group in references]
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

    scores = []
    for text, group in zip(candidates, counted, strict=True):
        ours, our_norms, our_length = vector(n_grams(treebank_words(text)))
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
        scores.append(10 * score / len(group))
    return scores


def bleu(candidates: list[str], references: list[list[str]], longest: int = 4) -> float:
    """Corpus BLEU (Papineni et al. 2002), the closest reference's length for brevity; in [0, 1].

    Args:
        candidates: one text a picture.
        references: texts of each picture.
        longest: n-gram: BLEU-1 to BLEU-4.
    """
    matches, totals = [0] * longest, [0] * longest
    length = closest = 0
    for text, group in zip(candidates, references, strict=True):
        tokens = treebank_words(text)
        lengths = [len(treebank_words(reference)) for reference in group]
        length += len(tokens)
        closest += min(lengths, key=lambda other: (abs(other - len(tokens)), other))
        best = [Counter() for _ in range(longest)]
        for reference in group:
            for n, counts in enumerate(n_grams(treebank_words(reference), longest)):
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
