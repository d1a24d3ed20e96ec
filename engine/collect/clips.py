"""Short videos of two named pictures one after the other, with captions and questions about them.

What a picture shows is what its name says. The rules:

- A clip is 16 frames long. It shows one person's picture and, from a frame between the 6th and the
  13th on, another's; both slide slowly over white. Any four frames at equal distances show both.
- The two differ in who they are (man, woman, person) and in skin tone; which is which is drawn
  evenly among all ordered pairs of either kind.
- The caption is `NAME then NAME`.
- `what skin tone does the WHO have?` asks for one of the two people, `who has TONE skin?` for the
  other one; which is which is drawn. All three answers to either are as likely: 1 in 3 is right
  without the frames.
- A skin tone is asked for where it is one word. Answers are ranked by the summed loss of their
  tokens, as in the original: `medium-light` has three more than `medium`, and never comes first.
- Nothing asks for the order: a network that lays the tokens of all frames side by side, as BLIP
  does, cannot tell it.
- `does the clip show THING?`: another word that enough names share and one of the two pictures
  shows, either as often. As often no as yes, for each word: of every two clips the first shows it
  and the second does not.
- Training clips show training pictures alone, held-out ones held-out pictures.

Clips are MP4 with MPEG-4 video, lists as MSRVTT (`clip_name`, `caption`) and MSRVTT-QA have them.
"""

import io
import json
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

from PIL import Image

from engine.collect.statements import PEOPLE, TONES, shown_by
from engine.collect.task_pictures import read_parts
from engine.config import ConfigError
from engine.data.images import decode_image
from engine.data.source import RawSample
from engine.data.videos import pyav

FRAMES, RATE, CUTS = 16, 8, range(5, 13)
# Pixels that a picture slides by in a frame, either way.
FASTEST = 1
MAX_PIXELS, BITS = 25_000_000, 800_000
WHITE = (255, 255, 255)
# Pictures that must show a thing, so that it can be learnt and judged.
LEAST = {"train": 40, "heldout": 4}


@dataclass(frozen=True)
class Person:
    """A picture of one kind of person with one skin tone."""

    image: bytes
    name: str
    who: str
    tone: str
    things: frozenset[str]


@dataclass(frozen=True)
class Clip:
    """A video of two pictures, under its name."""

    name: str
    first: Person
    second: Person

    @property
    def things(self) -> frozenset[str]:
        """What either picture shows."""
        return self.first.things | self.second.things


def make_clips(
    folder: Path,
    *,
    train: str,
    heldout: str,
    count: int = 1500,
    held_out: int = 300,
    seed: int = 0,
) -> dict[str, int]:
    """Write `retrieval_PART.jsonl` and `qa_PART.json`, `answer_list.json`, and `clips/`.

    Args:
        folder: made where it is not there.
        train: named pictures (shards, folder or annotation file) of the training clips.
        heldout: the same of the held-out ones.
        count: training clips.
        held_out: held-out clips.
        seed: of all that is drawn.

    Returns:
        How many clips each part has.

    Raises:
        ConfigError: no such pictures, too few of people, or no PyAV.
    """
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    counts, answers, asked = {"train": count, "heldout": held_out}, Counter(), 0
    people = {part: _people(samples) for part, samples in read_parts(train, heldout).items()}
    pools = {part: _pools(part, persons) for part, persons in people.items()}
    things = _shared(people)
    for part in people:
        draw = random.Random(f"{seed} {part}")
        clips = list(_clips(part, pools[part], counts[part], draw))
        for clip in clips:
            (folder / f"{clip.name}.mp4").write_bytes(encode(clip, draw))
        captions = [_caption(clip) for clip in clips]
        lines = "".join(json.dumps(row) + "\n" for row in captions)
        (folder / f"retrieval_{part}.jsonl").write_text(lines, encoding="utf-8")
        rows = [row for clip in clips for row in _facts(clip, draw)]
        rows += _shows(clips, things, draw)
        # The questions about a clip follow each other, so that it is decoded once.
        rows.sort(key=lambda row: row["video_id"])
        rows = [row | {"question_id": asked + number} for number, row in enumerate(rows)]
        asked += len(rows)
        _write(folder / f"qa_{part}.json", rows)
        if part == "train":
            answers.update(row["answer"] for row in rows)
    _write(folder / "answer_list.json", sorted(answers, key=lambda a: (-answers[a], a)))
    return counts


def refuse_few(parts: Mapping[str, Sequence[RawSample]]) -> None:
    """Look at the pictures of either part before any clip is made.

    Raises:
        ConfigError: too few of people, or no PyAV.
    """
    pyav()
    for part, samples in parts.items():
        _pools(part, _people(samples))


def _write(path: Path, rows: list) -> None:
    path.write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")


def _people(samples: Sequence[RawSample]) -> list[Person]:
    """Pictures whose names say one kind of person and one skin tone."""
    found = []
    for sample in samples:
        name = next((text for text in sample.captions if isinstance(text, str)), "").lower()
        shows = shown_by(name)
        who, tone = ([one for one in kind if one in shows] for kind in (PEOPLE, TONES))
        if sample.image and not sample.problem and len(who) == len(tone) == 1:
            rest = shows - {*who, *tone}
            found.append(Person(sample.image, name, who[0], tone[0], rest))
    return found


def _shared(people: dict[str, list[Person]]) -> frozenset[str]:
    """Words that enough pictures of either part show."""
    counts = {part: Counter(t for p in all_ for t in p.things) for part, all_ in people.items()}
    words = set(counts["train"]) & set(counts["heldout"])
    return frozenset(w for w in words if all(counts[part][w] >= LEAST[part] for part in counts))


def _pools(part: str, people: Sequence[Person]) -> dict[tuple[str, str], list[Person]]:
    """People of every kind and skin tone.

    Raises:
        ConfigError: a kind of person of a skin tone that nobody is.
    """
    pools = {(who, tone): [] for who in PEOPLE for tone in TONES}
    for person in people:
        pools[person.who, person.tone].append(person)
    lacking = [f"{who} {tone}" for (who, tone), pool in pools.items() if not pool]
    if lacking:
        raise ConfigError(f"no {part} picture is named {lacking[0]}: clips cannot be made of them")
    return pools


def _clips(
    part: str, pools: Mapping[tuple[str, str], list[Person]], count: int, draw: random.Random
) -> Iterator[Clip]:
    """Clips of two people who differ in both kinds."""
    orders = list(permutations(PEOPLE, 2)), list(permutations(TONES, 2))
    for number in range(count):
        whos, tones = map(draw.choice, orders)
        first, second = (draw.choice(pools[kind]) for kind in zip(whos, tones, strict=True))
        yield Clip(f"clips/{part}-{number:05d}", first, second)


def _caption(clip: Clip) -> dict[str, str]:
    return {"clip_name": clip.name, "caption": f"{clip.first.name} then {clip.second.name}"}


def _facts(clip: Clip, draw: random.Random) -> Iterator[dict[str, Any]]:
    """What is asked about every clip: the skin of one of the two, and who the other one is."""
    people = draw.sample((clip.first, clip.second), 2)
    one, other = sorted(people, key=lambda person: "-" in person.tone)
    if "-" not in one.tone:
        question = f"what skin tone does the {one.who} have?"
        yield {"video_id": clip.name, "question": question, "answer": _bare(one.tone)}
    question = f"who has {_bare(other.tone)} skin?"
    yield {"video_id": clip.name, "question": question, "answer": other.who}


def _bare(tone: str) -> str:
    return tone.removesuffix(" skin tone")


def _shows(
    clips: Sequence[Clip], things: frozenset[str], draw: random.Random
) -> Iterator[dict[str, Any]]:
    """Of two clips in a row, what the first shows and the second does not."""
    for yes, no in zip(clips[::2], clips[1::2], strict=False):
        pools = [person.things & things for person in (yes.first, yes.second)]
        # Which of the two shows it is drawn before what it is.
        mine = sorted(draw.choice(pools) - no.things)
        if mine:
            question = f"does the clip show {draw.choice(mine)}?"
            for clip, answer in ((yes, "yes"), (no, "no")):
                yield {"video_id": clip.name, "question": question, "answer": answer}


def encode(clip: Clip, draw: random.Random) -> bytes:
    """The clip as MP4, the same bytes for the same pictures and draws.

    Raises:
        ConfigError: no PyAV.
    """
    av, out, cut = pyav(), io.BytesIO(), draw.choice(CUTS)
    pictures = [decode_image(person.image, MAX_PIXELS) for person in (clip.first, clip.second)]
    speeds = [[draw.randint(-FASTEST, FASTEST) for _ in range(2)] for _ in pictures]
    # MPEG-4 halves the colours' sides.
    size = tuple(side + side % 2 for side in pictures[0].size)
    with av.open(out, "w", format="mp4", options={"fflags": "+bitexact"}) as opened:
        stream = opened.add_stream("mpeg4", rate=RATE, options={"flags": "+bitexact", "g": "8"})
        stream.width, stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", BITS
        stream.codec_context.thread_count = 1
        for number in range(FRAMES):
            which, since = (0, number) if number < cut else (1, number - cut)
            shown = Image.new("RGB", size, WHITE)
            shown.paste(pictures[which], tuple(speed * since for speed in speeds[which]))
            opened.mux(stream.encode(av.VideoFrame.from_image(shown)))
        opened.mux(stream.encode(None))
    return out.getvalue()
