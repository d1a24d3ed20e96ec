"""Whether captions are made of words that people used.

Letters strung together are as varied as can be, so that no count of distinct n-grams tells them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence, Set

from engine.data.open_source import open_source
from engine.data.tokenizer import Tokenizer
from engine.evaluation.metrics import words

# Of the clean pairs so many are read, evenly over all: their pictures are read along.
MOST_PAIRS = 4096
# Tokens of a caption that are looked at.
LONGEST = 512


def vocabulary(
    clean: str | Sequence[str], image_root: str | None, tokenizer: Tokenizer
) -> set[str]:
    """The words of clean captions as a captioner writes them, of at most 4,096 pairs.

    Args:
        clean: human-written pairs.
        image_root: folder that relative picture paths of annotation files start from.
        tokenizer: of the captioner, which takes accents off and 's apart.

    Raises:
        ConfigError: no pairs.
    """
    source = open_source(clean, image_root)
    count = min(len(source), MOST_PAIRS)
    found: set[str] = set()
    for place in range(count):
        for text in source.read(place * len(source) // count).captions:
            if isinstance(text, str):
                ids, _ = tokenizer.encode([text], LONGEST)
                found.update(words(tokenizer.decode(ids[:, 1:])[0]))
    return found


def unseen_words(texts: Iterable[str], known: Set[str]) -> float:
    """Share in [0, 1] of all words of some texts that are not known; 1 where there is no word."""
    said = Counter(word for text in texts for word in words(text))
    unseen = sum(count for word, count in said.items() if word not in known)
    return unseen / said.total() if said else 1.0
