"""The accuracy of visual question answering, and when it takes two answers for one.

The rules of the VQA challenge (Antol et al. 2015, arXiv:1505.00468, and its evaluation page), with
one difference: human answers are normalised like the model's, whether people agree or not. The
published ones have been through it already, so on them it changes nothing but hyphens and the like
in an answer that all ten gave.
"""

import math
import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
THOUSANDS = re.compile(r"\d,\d")
# A period stays before a digit alone: 3.5, .5.
PERIOD = re.compile(r"\.(?!\d)")
NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS.split())}
ARTICLES = ("a", "an", "the")
FORMS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(form: str) -> list[str]:
    places = [place for place, letter in enumerate(form) if letter == "'"]
    return [form[:place] + form[place + 1 :] for place in places]


CONTRACTIONS = {wrong: form for form in FORMS.split() for wrong in _without_one_apostrophe(form)}


def normalised(answer: str) -> str:
    """An answer as it is compared.

    Lower case; no articles; number words up to ten as digits; contractions with their apostrophes;
    punctuation to spaces, or to nothing where it stands beside a space somewhere in the answer or
    the answer has a number with commas; no periods but decimal ones.
    """
    text = " ".join(answer.split())
    plain, numbers = text, THOUSANDS.search(text)
    for mark in PUNCTUATION:
        beside = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if beside or numbers else " ")
    words = [DIGITS.get(word, word) for word in PERIOD.sub("", plain).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def answer_accuracy(answer: str, human: Sequence[str]) -> float:
    """min(1, matches / 3), mean over the ways to leave one of the human answers out; in [0, 1].

    Where that leaves fewer than three, all of them must match; one alone is not left out. The
    challenge has ten and no rule for fewer, by which nobody's answer could be right.

    Args:
        answer: of the model.
        human: of the annotators, ten of them as a rule, at least one.
    """
    given = normalised(answer)
    matches = sum(normalised(one) == given for one in human)
    if len(human) == 1:
        return float(matches)
    others, needed = len(human) - matches, min(3, len(human) - 1)
    # Leaving out one that matches, or one that does not.
    total = matches * min(1.0, (matches - 1) / needed) + others * min(1.0, matches / needed)
    return total / len(human)


def exact_accuracy(answers: Sequence[str], human: Sequence[Sequence[str]]) -> float:
    """Share of answers that equal one of people's once both are normalised, as in video QA."""
    equal = [
        normalised(one) in map(normalised, many) for one, many in zip(answers, human, strict=True)
    ]
    return sum(equal) / len(equal)


def mean_accuracy(answers: Sequence[str], human: Sequence[Sequence[str]]) -> float:
    """Mean of `answer_accuracy` over questions, at least one."""
    scores = [answer_accuracy(one, many) for one, many in zip(answers, human, strict=True)]
    return math.fsum(scores) / len(scores)
