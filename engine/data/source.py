"""What a set of pairs offers, whatever it is stored in."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import xxhash


@dataclass(frozen=True)
class RawSample:
    """One pair as it is stored.

    Attributes:
        key: its name in the store.
        uid: its stable name.
        url: where it came from, or "".
        captions: texts as stored; may be empty or hold what is not text.
        image_id: equal for pairs of one picture.
        image: encoded picture, or video, or None where it is missing.
        problem: why the store could not give it whole, or None.
        second: the other encoded picture of a statement about two, or None.
        label: 1 where a statement is true, 0 where it is false, or None.
        answers: to a question, each with its weight.
        people: what each of several people answered to it, where that is known.
        domain: of its picture, as NoCaps names it, or "".
        place: file and row that it was read from, or "".
        synthetic: which of the captions a captioner wrote, the first ones first; those that
            nothing is said of were found.
    """

    key: str
    uid: str
    url: str
    captions: list[Any]
    image_id: int
    image: bytes | None
    problem: str | None = None
    second: bytes | None = None
    label: int | None = None
    answers: tuple[tuple[str, float], ...] = ()
    people: tuple[str, ...] = ()
    domain: str = ""
    place: str = ""
    synthetic: tuple[bool, ...] = ()


class Source(Protocol):
    """Pairs by number."""

    lengths: list[int]

    def __len__(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the set or its order does."""
        ...

    def read(self, number: int) -> RawSample:
        """The pair; what is wrong with it is its `problem`."""
        ...


def stable_id(value: Any) -> int:
    """A picture's id as a non-negative 63-bit number: integers as they are, the rest hashed."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63:
        return value
    text = str(value)
    if text.isascii() and text.isdigit() and len(text) < 19:
        return int(text)
    return xxhash.xxh3_64_intdigest(text.encode("utf-8", "replace")) >> 1


def of_several(sample: RawSample, mark: str) -> RawSample:
    """The same as one of several sets, whose names and numbers mean other pictures in the next: its
    picture is known by its bytes, and its key ends in a mark of the set."""
    known = sample.image_id
    if sample.image is not None:
        known = xxhash.xxh3_64_intdigest(sample.image) >> 1
    return replace(sample, key=sample.key + mark, image_id=known)
