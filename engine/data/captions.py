"""Captions as the model learns them."""

import re
import unicodedata
from typing import Any

from engine.data.counter import Draws
from engine.data.images import BadSample

MAX_BYTES = 4096
# Combining characters in a row: what a text may have that can be composed in a stream (Unicode
# Standard Annex 15, section 13). To sort thousands of them takes a tenth of a second.
MAX_MARKS = 30
PUNCTUATION = '.!"()*#:;~'
TO_SPACES = str.maketrans(PUNCTUATION, " " * len(PUNCTUATION))
TO_NOTHING = str.maketrans("", "", PUNCTUATION)
SPACES = re.compile(r"\s+")


def clean_caption(text: Any, max_words: int) -> str:
    """Lower case, without .!"()*#:;~, single spaces, at most `max_words` words (BLIP's cleaning).

    Before that: valid Unicode in composed form, no control or direction characters, and at most
    4 kB of it, so that no text can stall the tokenizer.

    Raises:
        BadSample: bad_text for what is not text, empty_caption when nothing is left.
    """
    return _first_words(valid_text(text).lower().translate(TO_SPACES), max_words)


def clean_question(text: Any, max_words: int) -> str:
    """A question likewise, but that the characters leave no space behind (BLIP's cleaning).

    Raises:
        BadSample: bad_text for what is not text, empty_caption when nothing is left.
    """
    return _first_words(valid_text(text).lower().translate(TO_NOTHING), max_words)


def valid_text(text: Any) -> str:
    """Valid Unicode in composed form, no control or direction characters, of at most 4 kB.

    Raises:
        BadSample: bad_text for what is not text.
    """
    if not isinstance(text, str):
        raise BadSample("bad_text")
    # Most are as they should be, and a data set has millions.
    if len(text) <= MAX_BYTES and text.isascii() and text.isprintable():
        return text
    # A character is a byte at least: what is beyond need not be encoded.
    text = text[:MAX_BYTES].encode("utf-8", "replace")[:MAX_BYTES].decode("utf-8", "ignore")
    text = unicodedata.normalize("NFC", _fewer_marks(text))
    return "".join(c if c.isspace() or unicodedata.category(c)[0] != "C" else "" for c in text)


def _fewer_marks(text: str) -> str:
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def _first_words(text: str, max_words: int) -> str:
    words = text.split()[:max_words]
    if not words:
        raise BadSample("empty_caption")
    return " ".join(words)


def choose_caption(captions: list[Any], max_words: int, draws: Draws) -> str:
    """One of a picture's captions, cleaned; one that is unusable is passed over.

    Raises:
        BadSample: no caption, or none that is usable.
    """
    if not captions:
        raise BadSample("empty_caption")
    first = draws.below(len(captions)) if len(captions) > 1 else 0
    reason = "empty_caption"
    for caption in captions[first:] + captions[:first]:
        try:
            return clean_caption(caption, max_words)
        except BadSample as bad:
            reason = bad.reason
    raise BadSample(reason)
