"""What a captioner writes that has learned too little, told from the text alone.

No language model: what looks like words and is none is for the filter, and for the guard of the
rounds. This is about texts that no person writes, whatever picture they stand beside.
"""

import re

# A word's continuation without a beginning, and BERT's reserved tokens. Special tokens are never
# decoded. (The original cuts the prompt off by its length in characters, so that it shows the
# continuation "##ging" of "a picture of" as "ing".)
NO_WORD = re.compile(r"##|\[unused\d+\]")
# How often a word may be said, on average over all of a text's words.
MOST = 3


def is_words(text: str) -> bool:
    """Whether a text may be one that describes something.

    It is none when it holds pieces of the vocabulary that are no words, when no letter or digit is
    in it, or when its words are said more than three times each on average.
    """
    words = text.lower().split()
    if NO_WORD.search(text) or not any(letter.isalnum() for letter in text):
        return False
    return len(words) <= MOST * len(set(words))
