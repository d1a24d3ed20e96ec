"""The page of a bootstrap: its rounds side by side, and how the best one's model learned."""

import json
import shutil
from pathlib import Path

import pytest

from engine.capfilt.rule import SYNTHETIC, WEB, Candidate
from engine.capfilt.table import Scored
from engine.config import ConfigError
from engine.report.page import ReportConfig, write_report
from tests.capfilt_folder import data_of, words_of, write_capfilt
from tests.report_run import make_run, page_of, write_results

FIVE = [
    Scored(
        str(n), str(n), [Candidate(WEB, "a dog", 0.9, 0.3), Candidate(SYNTHETIC, "a cat", 0.1, 0)]
    )
    for n in range(5)
]


def test_rounds_stand_side_by_side(tmp_path: Path) -> None:
    write_capfilt(tmp_path / "capfilt_1", {"a": FIVE})
    guard = {"filter_precision": 0.9, "retrieval_r1": 0.2, "distinct_1": None, "kept_share": 0.5}
    rounds = [
        {"round": 0, "accepted": True, "reasons": [], "guard": {"retrieval_r1": 0.3}},
        {
            "round": 1,
            "accepted": False,
            "reasons": ["retrieval_r1 fell, see guard.filter_recall"],
            "guard": guard,
        }
        | {"folders": {"capfilt": "capfilt_1"}},
        {"round": 2, "accepted": None, "stages": {"captioner": "done", "filter": "running"}},
    ]
    (tmp_path / "bootstrap.json").write_text(json.dumps({"rounds": rounds, "best_round": 0}))
    (tmp_path / "config.yaml").write_text("guard:\n  filter_recall: 0.2\n")
    page = page_of(tmp_path)
    words = words_of(page)
    for expected in (
        "1 round of cleaning, 0 accepted; the best is the pretraining before all cleaning.",
        "round 0 ★ best 1 2 verdict start ✕ rejected at work: filter",
        "Retrieval R@1 30 % 20 % –",
        "Filter precision – 90 % –",
        "Round 1 was rejected: retrieval R@1 fell, see guard.filter_recall.",
        "everything needed to repeat it guard: filter_recall: 0.2",
    ):
        assert expected in words, expected
    assert "Distinct words" not in words
    assert len(data_of(page)["pictures"]) == 5
    (tmp_path / "config.yaml").unlink()
    first = {"rounds": [rounds[0], {**rounds[2], "round": 1}], "best_round": 0}
    (tmp_path / "bootstrap.json").write_text(json.dumps(first))
    assert "No round of cleaning is finished yet; the best is the" in words_of(page_of(tmp_path))
    (tmp_path / "bootstrap.json").write_text('{"rounds": 3}')
    with pytest.raises(ConfigError, match="nothing to report"):
        write_report(ReportConfig(run=str(tmp_path)), lambda line: None)


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """Two rounds, the second the better one, with the pretrainings of both."""
    quickstart = make_run(tmp_path / "quickstart", pictures=3)
    rounds = []
    for number, share in ((0, 0.1), (1, 0.3)):
        folder = f"round_{number}/pretrain"
        shutil.copytree(quickstart / "pretrain", tmp_path / "loop" / folder)
        guard, folders = {"retrieval_r1": share}, {"pretrain": folder}
        rounds.append({"round": number, "accepted": True, "guard": guard, "folders": folders})
    write_capfilt(tmp_path / "loop" / "round_1" / "capfilt", {"a": FIVE})
    rounds[1]["folders"]["capfilt"] = "round_1/capfilt"
    stored = {"rounds": rounds, "best_round": 1}
    (tmp_path / "loop" / "bootstrap.json").write_text(json.dumps(stored))
    after = {"text_to_image_r1": 0.3}
    write_results(tmp_path / "loop" / "round_1" / "pretrain", "retrieval", after, [])
    return tmp_path / "loop"


def test_the_best_rounds_model_is_shown(loop: Path) -> None:
    words = words_of(page_of(loop))
    parts = (
        "1 round of cleaning, 1 accepted; the best is round 1.",
        "The rounds side by side",
        "Before and after cleaning",
        "the first one 5.0 % 30 % +25.0 points",
        "What the best round's model finds",
        "What the filter of round 1 kept",
        "How the best round's model learned",
        "Contrastive loss",
    )
    places = [words.index(part) for part in parts]
    assert places == sorted(places)
    assert len(data_of(page_of(loop))["pictures"]) == 5


def test_before_all_cleaning_nothing_is_compared(loop: Path) -> None:
    stored = json.loads((loop / "bootstrap.json").read_text())
    (loop / "bootstrap.json").write_text(json.dumps(stored | {"best_round": 0}))
    words = words_of(page_of(loop))
    assert "Before and after cleaning" not in words
    assert "How the best round's model learned" in words


def test_a_model_that_is_gone_leaves_the_rounds(loop: Path) -> None:
    shutil.rmtree(loop / "round_1" / "pretrain")
    words = words_of(page_of(loop))
    assert "The rounds side by side" in words and "model learned" not in words
    (loop / "round_1" / "pretrain").mkdir()
    assert "holds nothing to report" in words_of(page_of(loop))


def test_the_best_rounds_cleaning_is_shown_beside_its_model(loop: Path) -> None:
    """And not that of a later round, which was rejected for it."""
    worse = [Scored(str(n), str(n), [Candidate(WEB, "collapsed", 0.1, 0.3)]) for n in range(3)]
    write_capfilt(loop / "round_2" / "capfilt", {"a": worse})
    stored = json.loads((loop / "bootstrap.json").read_text())
    stored["rounds"] += [{"round": 2, "accepted": False, "folders": {"capfilt": "round_2/capfilt"}}]
    (loop / "bootstrap.json").write_text(json.dumps(stored))
    page = page_of(loop)
    assert "What the filter of round 1 kept" in words_of(page)
    assert len(data_of(page)["pictures"]) == 5 and "collapsed" not in page
    # The first pretraining is after no cleaning: the newest is shown.
    (loop / "bootstrap.json").write_text(json.dumps(stored | {"best_round": 0}))
    assert "What the filter of round 2 kept" in words_of(page_of(loop))


def test_pages_that_show_pictures_say_whose_they_are(loop: Path) -> None:
    """Of a loop, of one of its stages, and of cleaning: their pairs lie elsewhere."""
    given = "Designs by Somebody, CC BY-SA 4.0"
    held = loop.parent / "quickstart" / "data" / "heldout"
    assert words_of(page_of(loop)).count(given) == 1
    assert given in words_of(page_of(loop / "round_1" / "pretrain"))
    # From the shard itself the folder is one more above.
    cleaned = write_capfilt(loop.parent / "c", {"a": FIVE}, train=str(held / "held_00000.tar"))
    assert given in words_of(page_of(cleaned))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((400, 400), "The same held-out pictures, the same 400 steps: pretrained on the web"),
        ((400, 900), "pictures: pretrained for 400 steps on the web captions as they came, and "),
        ((400, 900), "and pretrained again for 900 steps on what"),
        ((None, 400), "The same held-out pictures: pretrained on the web captions as they came,"),
    ],
)
def test_steps_are_looked_at(loop: Path, steps: tuple[int | None, int], said: str) -> None:
    for number, step in enumerate(steps):
        path = loop / f"round_{number}" / "pretrain" / "evaluation" / "retrieval" / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"step": step}))
    assert said in words_of(page_of(loop))


def test_of_many_rounds_the_newest_and_the_best_are_shown(tmp_path: Path) -> None:
    rounds = [
        {"round": n, "accepted": n != 30, "guard": {"retrieval_r1": 0.5 if n == 3 else 0.1}}
        for n in range(31)
    ]
    (tmp_path / "bootstrap.json").write_text(json.dumps({"rounds": rounds, "best_round": 3}))
    words = words_of(page_of(tmp_path))
    assert "30 rounds of cleaning, 29 accepted; the best is round 3." in words
    assert "Of 31 rounds the newest 24 are shown, and the best one." in words
    numbers = " ".join(map(str, range(7, 31)))
    assert f"round 3 ★ best {numbers} verdict" in words


def test_another_loop_in_the_current_folder_is_not_shown(
    loop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = shutil.copytree(loop, tmp_path / "other")
    write_results(other / "round_1" / "pretrain", "retrieval", {"text_to_image_r1": 0.9}, [])
    monkeypatch.chdir(other)
    assert "the first one 5.0 % 30 % +25.0 points" in words_of(page_of(loop))


def test_a_folder_that_no_file_system_holds_is_missing(loop: Path) -> None:
    stored = json.loads((loop / "bootstrap.json").read_text())
    stored["rounds"][1]["folders"] = {"pretrain": "/x" + "x" * 5000, "capfilt": "x" * 5000}
    (loop / "bootstrap.json").write_text(json.dumps(stored))
    assert "model learned" not in words_of(page_of(loop))
