"""Scores against their definitions, spelled out without any of the shortcuts."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.evaluation.metrics import (
    bleu,
    chance_recalls,
    cider_d,
    n_grams,
    retrieval_recalls,
    word_f1,
    words,
)

KS = (1, 2, 3)


def spelled_out(scores: np.ndarray, image_of_text: list[int], k: int) -> tuple[float, float]:
    """Recall at k of both directions: the mean over every order that the scores leave open."""
    images, texts = scores.shape
    to_image = [
        _share_of_orders(scores[:, text], k, {image_of_text[text]}) for text in range(texts)
    ]
    own = [{t for t in range(texts) if image_of_text[t] == i} for i in range(images)]
    to_text = [_share_of_orders(scores[i], k, own[i]) for i in range(images)]
    return float(np.mean(to_image)), float(np.mean(to_text))


def _share_of_orders(scores: np.ndarray, k: int, right: set[int]) -> float:
    """Share of the orders by falling score whose first k hold a right answer."""
    orders = [
        order
        for order in itertools.permutations(range(len(scores)))
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
    ]
    return sum(bool(right & set(order[:k])) for order in orders) / len(orders)


@st.composite
def retrievals(draw: st.DrawFn, highest: int = 3) -> tuple[np.ndarray, list[int]]:
    """Scores of few values, so that many are equal; some pictures have no text, some several."""
    images, texts = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    owners = draw(st.lists(st.integers(0, images - 1), min_size=texts, max_size=texts))
    values = st.lists(st.integers(0, highest), min_size=images * texts, max_size=images * texts)
    return np.array(draw(values), np.float32).reshape(images, texts), owners


@settings(max_examples=150, deadline=None)
@given(retrievals())
def test_recalls_are_means_over_the_orders_that_equal_scores_leave(
    drawn: tuple[np.ndarray, list[int]],
) -> None:
    scores, owners = drawn
    found = retrieval_recalls(scores, np.array(owners), KS)
    for k in KS:
        to_image, to_text = spelled_out(scores, owners, k)
        assert found[f"text_to_image_r{k}"] == pytest.approx(to_image)
        assert found[f"image_to_text_r{k}"] == pytest.approx(to_text)


def test_recalls_without_equal_scores_are_ranks() -> None:
    """Also BLIP's case: five texts a picture, of which the best counts."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(30), 5)
    scores = rng.permutation(30 * 150).reshape(30, 150).astype(np.float32)
    found = retrieval_recalls(scores, owners)
    for k in (1, 5, 10):
        images = np.argsort(-scores, 0)[:k]
        hits = [owner in images[:, text] for text, owner in enumerate(owners)]
        assert found[f"text_to_image_r{k}"] == pytest.approx(np.mean(hits))
        texts = np.argsort(-scores, 1)[:, :k]
        hits = [any(owners[text] == image for text in texts[image]) for image in range(30)]
        assert found[f"image_to_text_r{k}"] == pytest.approx(np.mean(hits))


@settings(max_examples=50, deadline=None)
@given(retrievals())
def test_equal_scores_reach_chance(drawn: tuple[np.ndarray, list[int]]) -> None:
    scores, owners = drawn
    found = retrieval_recalls(np.zeros_like(scores), np.array(owners), KS)
    assert found == pytest.approx(chance_recalls(np.array(owners), len(scores), KS))


@settings(max_examples=50, deadline=None)
@given(retrievals())
def test_chance_is_the_mean_over_all_orders(drawn: tuple[np.ndarray, list[int]]) -> None:
    scores, owners = drawn
    images, texts = scores.shape
    chance = chance_recalls(np.array(owners), images, KS)
    for k in KS:
        to_image, to_text = spelled_out(np.zeros((images, texts)), owners, k)
        assert chance[f"text_to_image_r{k}"] == pytest.approx(to_image)
        assert chance[f"image_to_text_r{k}"] == pytest.approx(to_text)


@settings(max_examples=50, deadline=None)
@given(retrievals(highest=1000), st.integers(0, 999))
def test_the_order_of_pictures_and_texts_does_not_matter(
    drawn: tuple[np.ndarray, list[int]], seed: int
) -> None:
    scores, owners = drawn
    rng = np.random.default_rng(seed)
    rows, columns = rng.permutation(scores.shape[0]), rng.permutation(scores.shape[1])
    place = np.argsort(rows)
    moved = retrieval_recalls(scores[rows][:, columns], place[np.array(owners)[columns]], KS)
    assert moved == pytest.approx(retrieval_recalls(scores, np.array(owners), KS))


def test_a_text_outside_the_shortlist_is_no_hit() -> None:
    """Two listed pictures are above; the right one shares its -100 with 97 others."""
    scores = np.full((100, 1), -100.0, np.float32)
    scores[:2] = 1.0
    found = retrieval_recalls(scores, np.array([50]))
    assert found["text_to_image_r1"] == 0
    assert found["text_to_image_r5"] == pytest.approx(3 / 98)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's  hat, on-top!", ["a", "man's", "hat", "on", "top"]),
        ("", []),
        ("… ?!", []),
        ("2 BIG\ttrees\n", ["2", "big", "trees"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_n_grams() -> None:
    grams = n_grams(["a", "b", "a", "b"], 3)
    assert grams == [
        {("a",): 2, ("b",): 2},
        {("a", "b"): 2, ("b", "a"): 1},
        {("a", "b", "a"): 1, ("b", "a", "b"): 1},
    ]
    assert n_grams([], 2) == [Counter(), Counter()]


def grams_of(text: str, n: int) -> list[str]:
    tokens = text.split()
    return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def spelled_out_cider(candidates: list[str], references: list[list[str]]) -> float:
    """Equations 3 to 5 of Vedantam et al. 2015, the length in bigrams as in its authors' code."""

    def weight(gram: str, text: str, n: int) -> float:
        pictures = sum(any(gram in grams_of(r, n) for r in group) for group in references)
        return grams_of(text, n).count(gram) * math.log(len(references) / max(1, pictures))

    def norm(text: str, n: int) -> float:
        return math.sqrt(sum(weight(gram, text, n) ** 2 for gram in set(grams_of(text, n))))

    scores = []
    for text, group in zip(candidates, references, strict=True):
        score = 0.0
        for reference in group:
            lengths = len(grams_of(text, 2)) - len(grams_of(reference, 2))
            for n in range(1, 5):
                shared = 0.0
                for gram in set(grams_of(text, n)):
                    theirs = weight(gram, reference, n)
                    shared += min(weight(gram, text, n), theirs) * theirs
                norms = norm(text, n) * norm(reference, n)
                score += shared / norms * math.exp(-(lengths**2) / 72) if norms else 0.0
        scores.append(10 / 4 * score / len(group))
    return sum(scores) / len(scores)


def spelled_out_bleu(candidates: list[str], references: list[list[str]]) -> float:
    """Papineni et al. 2002: clipped precisions of the corpus, the closest length, the shorter."""
    logs = []
    for n in range(1, 5):
        matched = total = 0
        for text, group in zip(candidates, references, strict=True):
            for gram in set(grams_of(text, n)):
                count = grams_of(text, n).count(gram)
                matched += min(count, max(grams_of(r, n).count(gram) for r in group))
                total += count
        if not matched:
            return 0.0
        logs.append(math.log(matched / total))
    length = sum(len(text.split()) for text in candidates)
    closest = 0
    for text, group in zip(candidates, references, strict=True):
        lengths = sorted(len(reference.split()) for reference in group)
        closest += min(lengths, key=lambda other: abs(other - len(text.split())))
    penalty = 1.0 if length > closest else math.exp(1 - closest / length)
    return penalty * math.exp(sum(logs) / 4)


def spelled_out_f1(candidates: list[str], references: list[list[str]]) -> float:
    """Words taken off the reference one by one."""
    scores = []
    for text, group in zip(candidates, references, strict=True):
        best = 0.0
        for reference in group:
            left, common = reference.split(), 0
            for word in text.split():
                if word in left:
                    left.remove(word)
                    common += 1
            if common:
                precision = common / len(text.split())
                recall = common / len(reference.split())
                best = max(best, 2 * precision * recall / (precision + recall))
        scores.append(best)
    return sum(scores) / len(scores)


TEXTS = st.lists(st.sampled_from("abcd"), min_size=0, max_size=9).map(" ".join)
PICTURES = st.lists(
    st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=4)), min_size=1, max_size=5
)


@settings(max_examples=200, deadline=None)
@given(PICTURES)
def test_caption_scores_are_their_definitions(drawn: list[tuple[str, list[str]]]) -> None:
    candidates, references = [text for text, _ in drawn], [group for _, group in drawn]
    expected = spelled_out_cider(candidates, references)
    assert cider_d(candidates, references) == pytest.approx(expected, abs=1e-9)
    assert bleu(candidates, references) == pytest.approx(spelled_out_bleu(candidates, references))
    expected = spelled_out_f1(candidates, references)
    assert word_f1(candidates, references) == pytest.approx(expected)


@pytest.mark.parametrize("turn", [1, -1])
def test_of_references_equally_near_the_shorter_counts(turn: int) -> None:
    references = ["a red fox in", "a red fox in snow today"][::turn]
    assert bleu(["a red fox in snow"], [references]) == 1.0


def test_the_ends_of_the_scales() -> None:
    references = [["a red fox in the snow"], ["two dogs run on a beach"], ["old wooden chair now"]]
    right = [group[0] for group in references]
    assert cider_d(right, references) == pytest.approx(10.0)
    assert bleu(right, references) == pytest.approx(1.0)
    assert word_f1(right, references) == pytest.approx(1.0)
    wrong = ["x y z w"] * 3
    assert cider_d(wrong, references) == bleu(wrong, references) == word_f1(wrong, references) == 0
    for score in (cider_d, bleu, word_f1):
        assert score([], []) == 0.0


def test_every_candidate_needs_its_references() -> None:
    for score in (cider_d, bleu, word_f1):
        with pytest.raises(ValueError, match="shorter"):
            score(["a", "b"], [["a"]])
