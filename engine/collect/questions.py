"""Questions about named pictures with ten people's answers, in the JSON of VQA v2.

What a picture shows is what its name says. The rules:

- `does the picture show THING?`: a word that enough pictures' names share. As often yes as no, so
  that a question alone tells nothing; where the word is one of man, woman and person, a picture
  that does not show it shows another of them.
- `what skin tone does the person have?`: of a picture whose name says exactly one.
- `who is in the picture?`: man, woman or person, where the name says exactly one of them.
- `what colour is the REST?`: a name of one colour and other words, about nobody.
- Of the three last kinds there are as many as the pictures give, a quarter of all at most each; the
  first makes up the rest.
- Of ten people, none or one, drawn evenly, answers something else of the same kind: no for yes,
  another colour, or a neighbouring skin tone. Two would be enough to make that answer 0.6 right.
- Training questions are about training pictures alone, held-out ones about held-out pictures.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.collect.statements import PEOPLE, TONES, shown_by
from engine.collect.task_pictures import file_of, read_parts, write_pictures
from engine.config import ConfigError
from engine.data.source import RawSample

COLOURS = (
    *("black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white"),
    "yellow",
)
YES_NO = ("yes", "no")
TONE_NAMES = tuple(tone.removesuffix(" skin tone") for tone in TONES)
# Pictures that must show a thing, so that it can be learnt and judged.
LEAST = {"train": 60, "heldout": 6}
PEOPLE_ASKED, MOST_OTHERS = 10, 1
# Of the questions that have more answers than two, each kind is one in so many at most.
SHARE = 4
# Draws of a picture and a word for each question, before it is believed that there are no more.
ATTEMPTS = 20


@dataclass(frozen=True)
class Seen:
    """A picture: its file, its name, and what that says it shows."""

    file: str
    name: str
    shows: frozenset[str]


@dataclass(frozen=True)
class Asked:
    """A question about a picture: what it shows, and what else might be answered."""

    image: str
    question: str
    true: str
    others: tuple[str, ...]


def make_questions(
    folder: Path,
    *,
    train: str,
    heldout: str,
    count: int = 6000,
    held_out: int = 1200,
    seed: int = 0,
) -> dict[str, int]:
    """Write `train.json`, `heldout.json`, `answer_list.json`, and the pictures under `images/`.

    Args:
        folder: made where it is not there.
        train: named pictures (shards, folder or annotation file) of the training questions.
        heldout: the same of the held-out ones.
        count: training questions.
        held_out: held-out questions.
        seed: of all that is drawn.

    Returns:
        How many questions each part has.

    Raises:
        ConfigError: no such pictures, or too few that share words.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    raw = read_parts(train, heldout)
    pictures = {part: _named(samples) for part, samples in raw.items()}
    things = _shared(pictures)
    counts, first, answers = {"train": count, "heldout": held_out}, 0, Counter()
    for part, samples in raw.items():
        draw = random.Random(f"{seed} {part}")
        asked = _asked(pictures[part], things, counts[part], draw)
        rows = [_row(one, first + number, draw) for number, one in enumerate(asked)]
        first += len(rows)
        if part == "train":
            answers.update(answer for row in rows for answer in row["answer"])
        named = {row["image"] for row in rows}
        write_pictures(folder, samples, named)
        _write(folder / f"{part}.json", rows)
        counts[part] = len(rows)
    _write(folder / "answer_list.json", sorted(answers, key=lambda a: (-answers[a], a)))
    return counts


def refuse_few(parts: Mapping[str, Sequence[RawSample]]) -> None:
    """Look at the pictures of either part before anything is made of them.

    Raises:
        ConfigError: too few that share words.
    """
    _shared({part: _named(samples) for part, samples in parts.items()})


def _write(path: Path, rows: list) -> None:
    path.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


def _named(samples: Sequence[RawSample]) -> list[Seen]:
    """Pictures that are there and have a name."""
    seen = []
    for sample in samples:
        name = next((text for text in sample.captions if isinstance(text, str)), "").lower()
        if sample.image and not sample.problem and name:
            seen.append(Seen(file_of(sample), name, shown_by(name)))
    return seen


def _shared(pictures: dict[str, list[Seen]]) -> list[str]:
    """Words that enough pictures of either part show, in order of the alphabet.

    Raises:
        ConfigError: there is none.
    """
    counts = {part: Counter(t for s in seen for t in s.shows) for part, seen in pictures.items()}
    words = sorted(set(counts["train"]) - set(TONES))
    enough = [w for w in words if all(counts[part][w] >= LEAST[part] for part in counts)]
    enough = [w for w in enough if all(min(map(len, _pools(s, w))) for s in pictures.values())]
    if not enough:
        raise ConfigError("too few pictures share words: nothing can be asked about them")
    return enough


def _pools(pictures: Sequence[Seen], thing: str) -> tuple[list[Seen], list[Seen]]:
    """Pictures that show it, and pictures that do not but could be mistaken."""
    others = set(PEOPLE) - {thing} if thing in PEOPLE else set()
    yes = [one for one in pictures if thing in one.shows]
    no = [p for p in pictures if thing not in p.shows and (not others or p.shows & others)]
    return yes, no


def _asked(
    pictures: Sequence[Seen], things: Sequence[str], count: int, draw: random.Random
) -> list[Asked]:
    """`count` different questions in random order; fewer where the pictures give no more."""
    asked: list[Asked] = []
    for fact in (_skin_tone, _who, _colour):
        told = [one for picture in pictures if (one := fact(picture)) is not None]
        asked += draw.sample(told, min(len(told), count // SHARE))
    pools, used = {thing: _pools(pictures, thing) for thing in things}, set()
    for _ in range(ATTEMPTS * count):
        if len(asked) + 2 > count:
            break
        thing = draw.choice(things)
        pair = [(thing, draw.choice(pool)) for pool in pools[thing]]
        if used.isdisjoint(pair):
            used.update(pair)
            for (_, picture), true, other in zip(pair, YES_NO, reversed(YES_NO), strict=True):
                question = f"does the picture show {thing}?"
                asked.append(Asked(picture.file, question, true, (other,)))
    draw.shuffle(asked)
    return asked


def _skin_tone(picture: Seen) -> Asked | None:
    tones = [place for place, tone in enumerate(TONES) if tone in picture.shows]
    if len(tones) != 1:
        return None
    (place,) = tones
    beside = [n for n in (place - 1, place + 1) if 0 <= n < len(TONES)]
    others = tuple(TONE_NAMES[n] for n in beside)
    question = "what skin tone does the person have?"
    return Asked(picture.file, question, TONE_NAMES[place], others)


def _who(picture: Seen) -> Asked | None:
    found = [word for word in PEOPLE if word in picture.shows]
    return _one_of(picture, "who is in the picture?", found, PEOPLE)


def _colour(picture: Seen) -> Asked | None:
    words = picture.name.split()
    found = [word for word in words if word in COLOURS]
    rest = " ".join(word for word in words if word not in COLOURS)
    if not rest or not picture.shows.isdisjoint({*PEOPLE, *TONES}):
        return None
    return _one_of(picture, f"what colour is the {rest}?", found, COLOURS)


def _one_of(
    picture: Seen, question: str, found: Sequence[str], known: Sequence[str]
) -> Asked | None:
    """A question that one of the known answers answers; None where not exactly one does."""
    if len(found) != 1:
        return None
    return Asked(picture.file, question, found[0], tuple(k for k in known if k != found[0]))


def _row(asked: Asked, number: int, draw: random.Random) -> dict[str, object]:
    """As VQA's annotations are."""
    differ = draw.randint(0, MOST_OTHERS)
    answers = [asked.true] * (PEOPLE_ASKED - differ)
    answers += [draw.choice(asked.others) for _ in range(differ)]
    draw.shuffle(answers)
    return {
        "image": asked.image,
        "question": asked.question,
        "answer": answers,
        "dataset": "vqa",
        "question_id": number,
    }
