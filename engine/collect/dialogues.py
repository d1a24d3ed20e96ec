"""Dialogues about named pictures, in the JSON of VisDial v1.0.

What a picture shows is what its name says. Those are asked about whose name says exactly one of
man, woman and person, or exactly one skin tone. The rules:

- The caption is the rest of the name: it tells neither.
- Of the person: `is it A or B?`, two of the three words, as often yes as no. Where it is one of
  them, `which of the two?` follows: neither the picture nor the question alone names the two.
- Of the skin: `is POSSESSIVE skin TONE?`, one time in three yes. Where it is another one, `is it
  darker than that?` follows, and `which skin tone is it?`. The possessive is his, her or their
  where the person has been told before, else `the`.
- Which comes first, the person or the skin, is drawn; a picture may have several dialogues.
- The candidates of a round are all answers that there are, in an order of its own: a question
  tells of what kind the answer is, and the commonest of the kind.
- Training dialogues are about training pictures alone, held-out ones about held-out pictures.

Every dialogue has an `image_id` of its own and names its file as `image`.
"""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.collect.questions import TONE_NAMES, YES_NO
from engine.collect.statements import PEOPLE, TONE, TONES, shown_by
from engine.collect.task_pictures import file_of, read_parts, write_pictures
from engine.config import ConfigError
from engine.data.source import RawSample

ANSWERS = (*YES_NO, *PEOPLE, *TONE_NAMES)
POSSESSIVES = {"man": "his", "woman": "her", "person": "their"}
# Of the questions for a skin tone, one in so many names the right one.
TONE_RIGHT = 3
# A caption where the name says nothing else.
NAMELESS = "somebody"

Said = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """A picture: its file, its caption, and what its name says; None where it does not."""

    file: str
    caption: str
    who: str | None
    tone: str | None


def make_dialogues(
    folder: Path,
    *,
    train: str,
    heldout: str,
    count: int = 3000,
    held_out: int = 600,
    seed: int = 0,
) -> dict[str, int]:
    """Write `train.json` and `heldout.json`, and under `images/` the pictures that they name.

    Args:
        folder: made where it is not there.
        train: named pictures (shards, folder or annotation file) of the training dialogues.
        heldout: the same of the held-out ones.
        count: training dialogues.
        held_out: held-out dialogues.
        seed: of all that is drawn.

    Returns:
        How many dialogues each part has.

    Raises:
        ConfigError: no such pictures, or none that can be asked about.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    counts, first = {"train": count, "heldout": held_out}, 0
    parts = read_parts(train, heldout)
    pictures = {part: _all_seen(part, samples) for part, samples in parts.items()}
    for part, samples in parts.items():
        draw = random.Random(f"{seed} {part}")
        content = _dialogues(pictures[part], counts[part], first, part, draw)
        first += counts[part]
        named = {dialog["image"] for dialog in content["data"]["dialogs"]}
        write_pictures(folder, samples, named)
        path = folder / f"{part}.json"
        path.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return counts


def refuse_few(parts: Mapping[str, Sequence[RawSample]]) -> None:
    """Look at the pictures of either part before anything is made of them.

    Raises:
        ConfigError: none that can be asked about.
    """
    for part, samples in parts.items():
        _all_seen(part, samples)


def _all_seen(part: str, samples: Sequence[RawSample]) -> list[Seen]:
    """Those that can be asked about.

    Raises:
        ConfigError: there is none.
    """
    pictures = [seen for sample in samples if (seen := _seen(sample)) is not None]
    if not pictures:
        raise ConfigError(
            f"no {part} picture shows one person or one skin tone: nothing can be asked"
        )
    return pictures


def _seen(sample: RawSample) -> Seen | None:
    """A picture that can be asked about."""
    name = next((text for text in sample.captions if isinstance(text, str)), "").lower()
    if not sample.image or sample.problem:
        return None
    shows = shown_by(name)
    people = [word for word in PEOPLE if word in shows]
    tones = [tone for tone, full in zip(TONE_NAMES, TONES, strict=True) if full in shows]
    # More than one of a kind, or one twice, would leave open which is meant.
    several = len(people) > 1 or len(TONE.findall(name)) > 1
    if several or not (people or tones):
        return None
    rest = [word for word in TONE.sub(" ", name).split() if word not in PEOPLE]
    caption = " ".join(rest) or NAMELESS
    return Seen(file_of(sample), caption, *(next(iter(few), None) for few in (people, tones)))


def _dialogues(
    pictures: Sequence[Seen], count: int, first: int, part: str, draw: random.Random
) -> dict[str, object]:
    """`count` dialogues, every picture as often as every other, but for one."""
    rounds_over = -(-count // len(pictures))
    order = [seen for _ in range(rounds_over) for seen in draw.sample(pictures, len(pictures))]
    spoken = [(seen, list(_rounds(seen, draw))) for seen in order[:count]]
    questions = sorted({question for _, rounds in spoken for question, _ in rounds})
    number_of = {question: number for number, question in enumerate(questions)}
    dialogs = [
        {
            "image_id": first + number,
            "image": seen.file,
            "caption": seen.caption,
            "dialog": [_row(number_of[asked], answer, draw) for asked, answer in rounds],
        }
        for number, (seen, rounds) in enumerate(spoken)
    ]
    data = {"questions": questions, "answers": list(ANSWERS), "dialogs": dialogs}
    return {"version": "1.0", "split": part, "data": data}


def _rounds(seen: Seen, draw: random.Random) -> Iterator[Said]:
    """Questions about a picture with their answers."""
    skin_first = draw.random() < 0.5
    possessive = "the" if skin_first or seen.who is None else POSSESSIVES[seen.who]
    person = [] if seen.who is None else list(_person(seen.who, draw))
    skin = [] if seen.tone is None else list(_skin(seen.tone, possessive, draw))
    yield from (*skin, *person) if skin_first else (*person, *skin)


def _person(who: str, draw: random.Random) -> Iterator[Said]:
    others = [word for word in PEOPLE if word != who]
    shown = draw.random() < 0.5
    two = [who, draw.choice(others)] if shown else others
    draw.shuffle(two)
    yield f"is it a {two[0]} or a {two[1]}?", YES_NO[not shown]
    if shown:
        yield "which of the two?", who


def _skin(tone: str, possessive: str, draw: random.Random) -> Iterator[Said]:
    right = draw.randrange(TONE_RIGHT) == 0
    asked = tone if right else draw.choice([other for other in TONE_NAMES if other != tone])
    yield f"is {possessive} skin {asked}?", YES_NO[not right]
    if right:
        return
    darker = TONE_NAMES.index(tone) > TONE_NAMES.index(asked)
    yield "is it darker than that?", YES_NO[not darker]
    yield "which skin tone is it?", tone


def _row(question: int, answer: str, draw: random.Random) -> dict[str, object]:
    """As VisDial's rounds are."""
    options = draw.sample(range(len(ANSWERS)), len(ANSWERS))
    number = ANSWERS.index(answer)
    return {
        "question": question,
        "answer": number,
        "answer_options": options,
        "gt_index": options.index(number),
    }
