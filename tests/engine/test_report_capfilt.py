"""The page of a captioning-and-filtering run: exact counts, a fair sample, both texts compared."""

import json
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from engine.capfilt.config import RuleSection
from engine.capfilt.rule import KEPT, SYNTHETIC, WEB, Candidate, judge
from engine.capfilt.table import Scored
from engine.config import ConfigError
from engine.report.capfilt_folder import Rule, read_capfilt
from engine.report.capfilt_part import CapFiltPart
from engine.report.capfilt_samples import shares_of, tally
from engine.report.capfilt_table import read_texts
from engine.report.score_bins import ScoreBins
from engine.report.word_diff import mark_own
from tests.capfilt_folder import data_of, words_of, write_capfilt, write_pictures
from tests.report_run import make_run, page_of, png, write_results
from tests.shards import caption, picture

LIMIT_BYTES, LIMIT_SECONDS = 5_000_000, 20
KEY, UID, SHARD, MORE, TEXTS, PICTURE = range(6)


def scores(draw: random.Random) -> tuple[float, float]:
    """A pair of scores as a table holds them; some of them lie on edges."""
    itm = draw.choice([draw.random(), draw.randrange(101) / 100, 0.0, 1.0])
    return tuple(float(np.float32(x)) for x in (itm, draw.uniform(-0.2, 0.6)))


def scored(number: int, draw: random.Random, synthetic: int = 1) -> Scored:
    """A picture with a web text and synthetic ones."""
    web = caption(number)
    texts = [Candidate(WEB, web, *scores(draw))]
    texts += [Candidate(SYNTHETIC, f"{web} {n}", *scores(draw)) for n in range(synthetic)]
    return Scored(f"{number:05d}", f"uid-{number}", texts)


def some(count: int, seed: int = 0, synthetic: int = 1) -> list[Scored]:
    draw = random.Random(seed)
    return [scored(number, draw, synthetic) for number in range(count)]


@pytest.mark.parametrize(
    ("text", "others", "own"),
    [
        ("a red red fox", ["a Red fox runs"], ["red"]),
        ("a red fox", ["a red red fox"], []),
        ("a red fox, asleep there", ["the red dog"], ["a", "fox, asleep there"]),
        ("red fox", ["red", "fox"], []),
        ("red fox", [], []),
        ("", ["red"], []),
        ("<b>fox</b>", ["b"], ["fox</b"]),
    ],
)
def test_words_of_one_text_only_are_marked_and_counted(
    text: str, others: list[str], own: list[str]
) -> None:
    pieces = mark_own(text, others)
    assert "".join(pieces) == text
    assert pieces[1::2] == own


@pytest.mark.parametrize(
    "rule", [RuleSection(), RuleSection(itm_threshold=0.537, itc_threshold=0.1234)]
)
def test_any_two_thresholds_give_the_rules_own_counts(tmp_path: Path, rule: RuleSection) -> None:
    pictures = some(400, synthetic=2)
    root = write_capfilt(tmp_path, {"a": pictures[:150], "b": pictures[150:]}, rule)
    data = data_of(page_of(root))
    rows, columns = data["edges"]["itm"], data["edges"]["itc"]
    counts = {n: np.array(c).reshape(len(rows), len(columns)) for n, c in data["counts"].items()}
    own = (data["own"]["itm"], data["own"]["itc"])
    places = [own, (0, 0), (30, 0), (70, len(columns) // 2), (len(rows) - 1, 3), (7, 9)]
    for row, column in places:
        other = RuleSection(
            itm_threshold=rows[row], itc_threshold=columns[column] if column else None
        )
        kept = Counter()
        for one in pictures:
            passed = [
                text.source
                for text, reason in zip(one.candidates, judge(one.candidates, other), strict=True)
                if reason == KEPT
            ]
            kept.update(passed)
            kept["pictures"] += bool(passed)
        found = {name: int(part[row:, column:].sum()) for name, part in counts.items()}
        assert found == {name: kept[name] for name in ("web", "synthetic", "pictures")}
    assert rows[own[0]] == rule.itm_threshold
    # The cards' bins say the same about single texts.
    for shown in data["pictures"]:
        for text in shown[TEXTS]:
            assert text[6] == (text[2] >= own[0] and text[3] >= own[1])


def test_the_page_says_what_the_tables_hold(tmp_path: Path) -> None:
    train = write_pictures(tmp_path / "in", "web", [(f"{n:05d}", picture(n)) for n in range(8)])
    texts = [
        Candidate(WEB, "a red square", 0.9, 0.4),
        Candidate(SYNTHETIC, "a red red square", 0.2, 0.1),
    ]
    empty = [Candidate(WEB, "", None, None, "empty_caption"), texts[1]]
    pictures = [Scored(f"{n:05d}", f"uid-{n}", empty if n == 7 else texts) for n in range(8)]
    root = write_capfilt(tmp_path / "my run", {"web_00000": pictures}, train=train)
    bad = {"shard": "web_00000", "key": "9", "uid": "9", "reason": "too_many_pixels"}
    (root / "quarantine" / "web_00000.jsonl").write_text(json.dumps(bad) + "\n")
    (root / "quarantine" / "web_00001.jsonl").write_text('{"shard": "web_00001", "reason": "torn"}')
    times = {"shard": "web_00000", "pictures": 8, "begun": 10.0, "ended": 14.0, "process": "a"}
    (root / "throughput.jsonl").write_text(json.dumps(times) + "\n{torn")
    page = page_of(root)
    words = words_of(page)
    for expected in (
        "The filter kept 88 % of 8 web captions and 0 % of 8 synthetic captions.",
        "with a probability of at least 0.5. 7 of 8 pictures keep a caption.",
        "kept 7 88 % 0 0 %",
        "matching score below the threshold 0 0 % 8 100 %",
        "empty 1 13 % 0 0 %",
        "too many pixels 1",
        "shard web_00001 could not be read torn",
        "throughput 2 pictures/s",
        "All 8 pictures.",
    ):
        assert expected in words, expected
    data = data_of(page)
    assert data["command"][:2] == ["python launch/capfilt.py", f"--from_table '{root}'"]
    shown = {one[KEY]: one for one in data["pictures"]}
    assert set(shown) == {f"{n:05d}" for n in range(8)}
    assert all(one[PICTURE].startswith("UklGR") for one in shown.values())
    assert [text[1] for text in shown["00000"][TEXTS]] == [
        ["a red square"],
        ["a red ", "red", " square"],
    ]
    assert shown["00000"][TEXTS][0][4:] == [8999, 4000, 1, data["reasons"].index("matched")]


def test_pictures_come_from_the_cleaned_shards_where_the_input_is_gone(tmp_path: Path) -> None:
    root = write_capfilt(tmp_path / "run", {"web_00000": some(6)}, train=str(tmp_path / "gone"))
    kept = [(f"{n:05d}", picture(n)) for n in range(3)]
    write_pictures(root / "shards", "web", kept)
    page = page_of(root)
    assert {one[KEY] for one in data_of(page)["pictures"] if one[PICTURE]} == {k for k, _ in kept}
    assert "The input pictures cannot be opened" in page


def test_a_sample_is_the_same_every_time_and_shows_what_is_rare(tmp_path: Path) -> None:
    pictures = some(3000)
    # One picture in a thousand has a text that could not be scored.
    for number in (100, 1100, 2100):
        pictures[number].candidates[0] = Candidate(WEB, "", None, None, "empty_caption")
    root = write_capfilt(tmp_path, {"a": pictures[:1000], "b": pictures[1000:]})
    tables = [read_texts(path, []) for path in sorted((root / "table").iterdir())]
    found = tally(tables, Rule(), most=200)
    keys = [one.key for one in found.sample]
    assert len(keys) == len(set(keys)) == 200
    assert keys == [one.key for one in tally(tables[::-1], Rule(), most=200).sample]
    assert {"00100", "01100", "02100"} <= set(keys)
    assert found.pictures == 3000
    assert len(tally(tables, Rule(), most=5000).sample) == 3000
    assert sum(shares_of(Counter({0: 990, 1: 9, 2: 1}), 100).values()) == 100
    assert shares_of(Counter({0: 5, 1: 3}), 100) == {0: 5, 1: 3}


def test_two_thousand_samples_fit_and_are_quick(tmp_path: Path) -> None:
    """The worst pictures, noise, and long captions."""
    pictures = [(f"{n:05d}", png(n, 64)) for n in range(2000)]
    train = write_pictures(tmp_path / "in", "web", pictures)
    draw = random.Random(0)
    made = [
        Scored(
            key,
            key,
            [Candidate(s, f"<{'word & ' * 60}{key}>", *scores(draw)) for s in (WEB, SYNTHETIC)],
        )
        for key, _ in pictures
    ]
    root = write_capfilt(tmp_path / "run", {"web_00000": made}, train=train)
    # Of all threads together, so that what else the machine does is not counted.
    begun = time.process_time()
    page = page_of(root)
    assert time.process_time() - begun < LIMIT_SECONDS
    assert len(page.encode()) <= LIMIT_BYTES
    data = data_of(page)
    assert len(data["pictures"]) == 2000
    assert sum(bool(one[PICTURE]) for one in data["pictures"]) == 2000


def test_damaged_tables_are_left_out_and_named(tmp_path: Path) -> None:
    root = write_capfilt(tmp_path, {"a": some(3), "b": some(3)})
    (root / "table" / "b.parquet").write_bytes(b"PAR1" + bytes(40))
    (root / "run.json").write_text('{"rule": {"itm_threshold": "x", "at_most": [], "rank_by": 3}}')
    page = page_of(root)
    assert "table/b.parquet is left out" in page
    assert len(data_of(page)["pictures"]) == 3
    (root / "table" / "a.parquet").write_bytes(b"")
    assert "No text was scored." in page_of(root)
    for path in (root / "table").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="no shard is finished there"):
        page_of(root)


def test_limits_of_the_rule_are_said_and_part_of_the_command(tmp_path: Path) -> None:
    rule = RuleSection(
        at_most=1, rank_by="itc", drop_duplicates=True, drop_not_words=False, itc_threshold=0.1
    )
    page = page_of(write_capfilt(tmp_path, {"a": some(30, synthetic=9)}, rule))
    assert "of all its texts the best 1 by similarity" in words_of(page)
    data = data_of(page)
    assert data["command"][4:] == [
        "--rule.at_most 1",
        "--rule.rank_by itc",
        "--rule.drop_duplicates true",
        "--rule.drop_not_words false",
    ]
    assert data["rule"] == {"best_synthetic": None, "at_most": 1, "rank_by": "itc"}
    assert {one[MORE] for one in data["pictures"]} == {4}


def test_what_is_kept_is_shown_and_all_scores_are_known(tmp_path: Path) -> None:
    """The rule keeps the text that the matching score ranks last of nine."""
    texts = [Candidate("web", "web", 0.9, 0.2)]
    texts += [Candidate(SYNTHETIC, f"made {n}", 0.9 - n / 100, 0.1 + n / 20) for n in range(8)]
    rule = RuleSection(best_synthetic=1, rank_by="itc")
    data = data_of(page_of(write_capfilt(tmp_path, {"a": [Scored("0", "0", texts)]}, rule)))
    (picture,) = data["pictures"]
    shown = ["".join(pieces) for _, pieces, *_ in picture[TEXTS] if pieces]
    assert shown == ["web", "made 0", "made 1", "made 2", "made 3", "made 7"]
    assert picture[MORE] == 3 and len(picture[TEXTS]) == 9
    assert [text[6] for text in picture[TEXTS]] == [1, 0, 0, 0, 0, 1, 0, 0, 0]
    many = [Scored(str(n), str(n), texts * 12) for n in range(420)]
    sample = data_of(page_of(write_capfilt(tmp_path / "many", {"a": many})))["pictures"]
    assert [len(one[TEXTS]) for one in sample] == [100] * 400


def test_what_is_no_words_passes_no_threshold(tmp_path: Path) -> None:
    texts = [Candidate("web", "a dog", 0.9, 0.3), Candidate("synthetic", "##ging", 0.99, 0.5)]
    page = page_of(write_capfilt(tmp_path, {"a": [Scored("0", "0", texts)]}))
    assert "pieces of words, or the same words over and over" in words_of(page)
    assert "dropped whatever their scores are, 1 in all." in words_of(page)
    assert "whatever their scores are" not in words_of(
        page_of(write_capfilt(tmp_path / "b", {"a": some(2)}))
    )
    data = data_of(page)
    assert [sum(data["counts"][part]) for part in ("web", "synthetic", "pictures")] == [1, 0, 1]
    assert data["reasons"] == ["matched", "not_words"]


def test_a_quickstart_shows_its_cleaning_and_what_it_brought(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=3)
    write_capfilt(root / "capfilt", {"a": some(5)})
    (root / "pretrain_clean" / "evaluation" / "retrieval").mkdir(parents=True)
    after = {"text_to_image_r1": 0.08, "text_to_image_r5": 0.4}
    write_results(root / "pretrain_clean", "retrieval", after, [])
    page = page_of(root)
    words = words_of(page)
    # The last model leads, and what it was before follows.
    assert "in its first five 40 % of the time" in words
    assert words.index("Before and after cleaning") < words.index("What the filter kept")
    assert "the first one 5.0 % 8.0 % +3.0 points" in words
    assert "What the filter kept" in words
    assert len(data_of(page)["pictures"]) == 5


def test_tables_are_read_once(tmp_path: Path) -> None:
    part = CapFiltPart(read_capfilt(write_capfilt(tmp_path, {"a": some(3)})))
    (tmp_path / "table" / "a.parquet").unlink()
    assert part.view()["pictures"] == 3


def test_a_wide_axis_ends_at_tenths_and_a_narrow_one_at_its_scores() -> None:
    for itm, ends in (((0.003, 0.984), [0.0, 1.0]), ((0.31, 0.384), [0.31, 0.39])):
        bins = ScoreBins(itm[0], None)
        bins.add(np.array(itm), np.array([-0.55, 0.93]), np.array([False, True]), np.arange(2))
        bins.trim()
        assert bins.itm[[0, -1]].tolist() == ends
        assert bins.itc[[0, -1]].tolist() == [-0.6, 1.0]
