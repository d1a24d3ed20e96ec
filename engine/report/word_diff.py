"""Which words of a text its rivals do not have."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import groupby


def mark_own(text: str, others: Sequence[str]) -> list[str]:
    """A text in pieces, by turns shared with others and its own; a shared one comes first.

    Words are compared without regard to case, and counted: of a word that stands here twice and
    nowhere else more than once, the second one is its own.

    Args:
        text: to mark.
        others: a word is shared when one of them holds it as often; without any, all is shared.

    Returns:
        Pieces that joined are the text; the first may be empty.
    """
    if not others:
        return [text]
    known: Counter[str] = Counter()
    for other in others:
        known |= Counter(_words(other))
    pieces = re.split(r"(\w+)", text)
    own, seen = [False] * len(pieces), Counter()
    for place in range(1, len(pieces), 2):
        word = pieces[place].casefold()
        seen[word] += 1
        own[place] = seen[word] > known[word]
    # What stands between two words of its own belongs to them, so that a phrase is marked as one.
    for gap in range(2, len(pieces) - 2, 2):
        own[gap] = own[gap - 1] and own[gap + 1]
    runs = groupby(zip(pieces, own, strict=True), key=lambda pair: pair[1])
    # The text begins with a gap, which is shared and may be empty: the turns start right.
    return ["".join(piece for piece, _ in run) for _, run in runs]


def _words(text: str) -> list[str]:
    return [word.casefold() for word in re.findall(r"\w+", text)]
