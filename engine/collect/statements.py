"""Statements about two pictures from named pictures, in the JSON of NLVR2.

What a picture shows is what its name says: one of the words man, woman and person, a skin tone,
and other words that enough pictures share. A statement has one of seven forms. The rules:

- Every sentence comes twice, with two pictures of which it is true and with two of which it is
  false: the words alone tell nothing.
- Which of the pictures show what is drawn evenly among the ways that make a form true, or false.
- Where a word is one of a kind (man, woman, person; skin tones), a picture that does not show it
  shows another of that kind.
- "the left picture shows A and the right one B" is about two of a kind, and false with them
  exchanged or with one of them twice.
- Training statements have training pictures alone, held-out ones held-out pictures alone.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from engine.collect.task_pictures import file_of, read_parts, write_pictures
from engine.config import ConfigError
from engine.data.source import RawSample

PEOPLE = ("man", "woman", "person")
TONES = tuple(f"{tone} skin tone" for tone in ("light", "medium-light", "medium", "medium-dark"))
TONES += ("dark skin tone",)
TONE = re.compile(r"(?<![\w-])(?:medium-light|medium-dark|medium|light|dark) skin tone")
WORD = re.compile(r"[a-z]{3,}")
# Words of names that are no sight, and the sides, which a statement speaks of itself.
UNSEEN = {"and", "for", "not", "the", "with", "left", "right"}
# Pictures that must show a thing, so that it can be learnt and judged.
LEAST = {"train": 100, "heldout": 6}
# A sentence, and of which pictures (left, right) it is true: 1 shows {a}, 0 does not, or shows {b}.
FORMS: tuple[tuple[str, set[tuple[int, int]]], ...] = (
    ("both pictures show {a}", {(1, 1)}),
    ("neither picture shows {a}", {(0, 0)}),
    ("exactly one picture shows {a}", {(0, 1), (1, 0)}),
    ("at least one picture shows {a}", {(0, 1), (1, 0), (1, 1)}),
    ("the left picture shows {a}", {(1, 0), (1, 1)}),
    ("the right picture shows {a}", {(0, 1), (1, 1)}),
    ("the left picture shows {a} and the right one {b}", {(1, 0)}),
)
WAYS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Seen:
    """A picture and what its name says that it shows."""

    name: str
    shows: frozenset[str]


def shown_by(name: str) -> frozenset[str]:
    """What a picture of this name shows: skin tones as phrases, the rest as words."""
    name = name.lower()
    tones, rest = TONE.findall(name), TONE.sub(" ", name)
    return frozenset({*tones, *WORD.findall(rest)} - UNSEEN)


def make_statements(
    folder: Path,
    *,
    train: str,
    heldout: str,
    count: int = 4000,
    held_out: int = 1000,
    seed: int = 0,
) -> dict[str, int]:
    """Write `train.json` and `heldout.json`, and under `images/` the pictures that they name.

    Args:
        folder: made where it is not there.
        train: named pictures (shards, folder or annotation file) of the training statements.
        heldout: the same of the held-out ones.
        count: training statements; even, because sentences come twice.
        held_out: held-out statements; even.
        seed: of all that is drawn.

    Returns:
        How many statements each part has.

    Raises:
        ConfigError: no such pictures, or too few that share words.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    raw = read_parts(train, heldout)
    pictures = {part: _named(samples) for part, samples in raw.items()}
    things = _shared(pictures)
    counts = {"train": count, "heldout": held_out}
    for part, samples in raw.items():
        draw = random.Random(f"{seed} {part}")
        rows = list(_statements(pictures[part], things, counts[part] // 2, draw))
        for number, row in enumerate(rows):
            row["identifier"] = f"{part}-{number}"
        named = {name for row in rows for name in row["images"]}
        write_pictures(folder, samples, named)
        (folder / f"{part}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        counts[part] = len(rows)
    return counts


def refuse_few(parts: Mapping[str, Sequence[RawSample]]) -> None:
    """Look at the pictures of either part before anything is made of them.

    Raises:
        ConfigError: too few that share words.
    """
    pictures = {part: _named(samples) for part, samples in parts.items()}
    _at_least_two(list(islice(_enough(pictures), 2)))


def _named(samples: Sequence[RawSample]) -> list[Seen]:
    """Pictures that are there and have a name."""
    good = [sample for sample in samples if sample.image and not sample.problem]
    texts = [next((text for text in s.captions if isinstance(text, str)), "") for s in good]
    return [Seen(file_of(s), shown_by(text)) for s, text in zip(good, texts, strict=True)]


def _shared(pictures: Mapping[str, Sequence[Seen]]) -> list[str]:
    """What enough pictures of either part show, in order of the alphabet.

    Raises:
        ConfigError: fewer than two things.
    """
    return _at_least_two(list(_enough(pictures)))


def _enough(pictures: Mapping[str, Sequence[Seen]]) -> Iterator[str]:
    for thing in sorted({thing for picture in pictures["train"] for thing in picture.shows}):
        pools = {part: _pools(seen, thing, None, _others(thing)) for part, seen in pictures.items()}
        if all(len(yes) >= LEAST[part] and len(no) > 1 for part, (no, yes) in pools.items()):
            yield thing


def _at_least_two(things: list[str]) -> list[str]:
    if len(things) < 2:
        raise ConfigError("too few pictures share words: nothing can be stated about two of them")
    return things


def _others(thing: str) -> list[str]:
    """The rest of its kind; none where it is of no kind."""
    return [other for kind in (PEOPLE, TONES) if thing in kind for other in kind if other != thing]


def _statements(
    pictures: Sequence[Seen], things: Sequence[str], sentences: int, draw: random.Random
) -> Iterator[dict]:
    """Two rows a sentence, one true and one false, in random order."""
    made = 0
    while made < sentences:
        form, true = draw.choice(FORMS)
        a, b = draw.choice(things), None
        if "{b}" in form:
            others = [thing for thing in _others(a) if thing in things]
            if not others:
                continue
            b = draw.choice(others)
        pools = _pools(pictures, a, b, _others(a))
        if min(map(len, pools)) < 2:
            continue
        made += 1
        sentence, labels = form.format(a=a, b=b), [True, False]
        draw.shuffle(labels)
        for label in labels:
            left, right = draw.choice([way for way in WAYS if (way in true) == label])
            first = draw.choice(pools[left])
            second = draw.choice([picture for picture in pools[right] if picture is not first])
            images = [first.name, second.name]
            yield {"images": images, "sentence": sentence, "label": str(label)}


def _pools(
    pictures: Sequence[Seen], a: str, b: str | None, others: Sequence[str]
) -> tuple[list[Seen], list[Seen]]:
    """Pictures that do not show `a` (but `b`, or others of its kind), and pictures that do."""
    instead = {b} if b else set(others)
    no = [p for p in pictures if a not in p.shows and (not instead or p.shows & instead)]
    yes = [p for p in pictures if a in p.shows and (b is None or b not in p.shows)]
    return no, yes
