"""Clips derived from pictures and names: what their rules promise."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.collect import clips
from engine.collect.clips import make_clips
from engine.collect.statements import PEOPLE, TONES
from engine.config import ConfigError
from engine.data.questions import read_answer_list
from engine.data.shard_writer import ShardWriter
from engine.data.video_pairs import open_videos
from engine.data.video_questions import open_video_questions
from engine.data.videos import decode_video
from tests.commands import contents
from tests.shards import picture

TRADES = ("cook", "farmer")
NAMES = [f"{who} {trade} {tone}" for who in PEOPLE for trade in TRADES for tone in TONES]
COUNTS = {"train": 40, "heldout": 20}


def write_named(folder: Path, part: str, first: int) -> str:
    """People of all kinds, skin tones and trades, and what is no person, as shards."""
    with ShardWriter(folder / part, part, 100) as writer:
        for number, name in enumerate([*NAMES, "red heart", "man cook"], first):
            facts = {"uid": f"set-{number:04X}", "url": ""}
            writer.add(f"{number:05d}", picture(number), "png", name, facts)
    return str(folder / part)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("named")
    firsts = {"train": 0, "heldout": 100}
    parts = {part: write_named(folder, part, first) for part, first in firsts.items()}
    counts = {"count": COUNTS["train"], "held_out": COUNTS["heldout"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clips, "LEAST", {"train": 4, "heldout": 4})
        for name in ("one", "again", "other"):
            seed = 1 if name == "other" else 0
            assert make_clips(folder / name, **parts, **counts, seed=seed) == COUNTS
    return folder


def halves(folder: Path, part: str) -> dict[str, list[str]]:
    """Of each clip the names of its two pictures."""
    lines = (folder / f"retrieval_{part}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return {row["clip_name"]: row["caption"].split(" then ") for row in rows}


@pytest.mark.parametrize("part", ["train", "heldout"])
def test_clips_are_read_and_show_both_pictures(made: Path, part: str) -> None:
    source, names = open_videos(str(made / "one" / f"retrieval_{part}.jsonl")), NAMES
    assert len(source) == COUNTS[part]
    for number in range(len(source)):
        raw = source.read(number)
        two = halves(made / "one", part)[raw.key]
        assert set(two) <= set(names)
        seen = [np.asarray(frame, np.int16) for frame in decode_video(raw.image, 4, 10_000)]
        pictures = [names.index(name) + (100 if part == "heldout" else 0) for name in two]
        if (pictures[0] - pictures[1]) % 32:
            assert np.abs(seen[0] - seen[3]).mean() > 1


def test_answers_are_what_the_one_asked_for_shows(made: Path) -> None:
    asked, answers, shown = Counter(), {}, Counter()
    for part in COUNTS:
        named = halves(made / "one", part)
        for row in json.loads((made / "one" / f"qa_{part}.json").read_text()):
            words = [name.split() for name in named[row["video_id"]]]
            question, answer = row["question"].removesuffix("?").split(), row["answer"]
            if question[0] == "does":
                thing = question[-1]
                assert (thing in words[0] + words[1]) == (answer == "yes"), row
                shown[part, thing, answer] += 1
                continue
            # Who and the skin tone stand first and third in a name.
            known, wanted = (2, 0) if question[0] == "who" else (0, 2)
            (place,) = (n for n, name in enumerate(words) if name[known] == question[-2])
            assert answer == words[place][wanted], row
            asked[wanted, place] += 1
            answers.setdefault(row["question"], Counter())[answer] += 1
    # Both pictures are asked about, and of no question is one answer always right.
    assert asked[0, 0] + asked[0, 1] == 60 and min(asked.values()) > 15
    assert len(answers) == 8 and all(1 < len(found) < 4 for found in answers.values())
    assert shown and all(shown[p, t, "yes"] == shown[p, t, "no"] for p, t, _ in shown)


def test_a_seed_gives_the_same_bytes_and_parts_share_nothing(made: Path) -> None:
    assert contents(made / "one") == contents(made / "again")
    assert contents(made / "one") != contents(made / "other")
    sources = [open_video_questions(str(made / "one" / f"qa_{part}.json")) for part in COUNTS]
    ids = [{s.read(n).uid for n in range(len(s))} for s in sources]
    assert not ids[0] & ids[1]
    assert all(s.read(n).problem is None for s in sources for n in range(len(s)))
    listed = read_answer_list(made / "one" / "answer_list.json")
    assert {*PEOPLE, "yes", "no"} <= set(listed)


def test_pictures_of_nobody_are_refused(tmp_path: Path) -> None:
    for part in COUNTS:
        with ShardWriter(tmp_path / part, part, 10) as writer:
            writer.add("0", picture(0), "png", "red heart", {"uid": part, "url": ""})
    with pytest.raises(ConfigError, match="no train picture is named man light skin tone"):
        parts = {part: str(tmp_path / part) for part in COUNTS}
        make_clips(tmp_path / "out", **parts)
