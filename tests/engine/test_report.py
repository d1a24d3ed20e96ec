"""The page shows what a run left and says what it did not leave."""

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import ConfigError
from engine.report.examples import mark_shared, picture_keys
from engine.report.page import ReportConfig, write_report
from engine.report.run_folder import read_run
from engine.report.thumbnails import held_out_thumbnails, is_picture, thumbnail
from tests.report_run import PARTS, Elements, make_run, page_of, write_results


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a complete run."""
    return page_of(make_run(tmp_path_factory.mktemp("run") / "quickstart"))


def test_it_shows_every_part_of_a_run(whole: str) -> None:
    text = " ".join(Elements(whole).text.split())
    for expected in (
        "among 400 pictures it never saw in its first five 25 % of the time",
        "Chance: 1.3 %. That is 20 times better than guessing.",
        "chance 0.25 %",
        "CIDEr 1.25 (dealt to other pictures 0.04)",
        "held-out pairs left out as bad 7",
        "a red fox cub",
        "a red fox 3",
        "rank 9",
        "✓ right",
        "Contrastive loss",
        "2 steps skipped",
        "training pairs 3,553",
        "bad samples replaced 5 truncated 4 empty_caption 1",
        "Designs by Somebody, CC BY-SA 4.0",
        "learning_rate: 0.0003",
        "torch 2.",
        "2 min",
    ):
        assert expected in text, expected
    assert whole.count('<svg viewBox="0 0 360') == 6
    assert "evaluation/" not in text


def test_pictures_are_held_out_samples_encoded_anew(whole: str) -> None:
    pictures = Elements(whole).of("img")
    assert len(pictures) > 12
    assert all(is_picture(picture["src"]) for picture in pictures)
    assert {picture["title"] for picture in pictures} == {f"{i:06d}" for i in range(12)}


def test_it_loads_nothing_and_runs_nothing(whole: str) -> None:
    elements = Elements(whole)
    policy = elements.of("meta")[1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"].startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy["content"]
    assert "http://" not in whole
    assert "https://" not in whole
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in elements.found
    }
    for _, attributes in elements.found:
        assert "href" not in attributes
        assert "style" not in attributes
        assert (attributes.get("src") or "data:").startswith("data:")
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in whole
    assert "@import" not in whole


@pytest.mark.parametrize("gone", list(PARTS))
def test_an_absent_part_is_said_not_fatal(tmp_path: Path, gone: str) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    (root / "pretrain" / PARTS[gone]).unlink()
    text = Elements(page_of(root)).text
    expected = {
        "metrics": "there is no metrics.jsonl",
        "config": "There is no config.yaml",
        "retrieval": "evaluate.py --task retrieval",
        "caption": "evaluate.py --task caption",
    }
    assert {part for part, line in expected.items() if line in text} == {gone}


def test_the_command_that_is_named_writes_where_the_page_reads(tmp_path: Path) -> None:
    """For a folder whose name a shell takes apart, with and without pairs to evaluate on."""
    root = make_run(tmp_path / "my run", pictures=2)
    (root / "pretrain" / PARTS["retrieval"]).unlink()
    run, stage = read_run(root), root / "pretrain"
    assert run.evaluation("retrieval") in " ".join(Elements(page_of(root)).text.split())
    words = shlex.split(run.evaluation("retrieval"))
    named = dict(zip(words[2::2], words[3::2], strict=True))
    assert Path(named["--output_dir"]) / "results.json" == stage / PARTS["retrieval"]
    assert (named["--config"], named["--model.checkpoint"]) == (f"{stage}/config.yaml", str(stage))
    assert ("--data.eval" in named) == (not run.setting("data", "eval"))
    bare = replace(run, config=None, config_text="")
    assert "--data.eval SHARDS" in bare.evaluation("caption")
    assert "--config" not in bare.evaluation("caption")


@pytest.mark.parametrize("kept", list(PARTS))
def test_one_part_alone_makes_a_page(tmp_path: Path, kept: str) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    for part, name in PARTS.items():
        if part != kept:
            (root / "pretrain" / name).unlink()
    for path in (root / "data").glob("*.*"):
        path.unlink()
    assert "<h1>" in page_of(root)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "no better than"), (0.0125, "no better"), (0.016, "hardly"), (0.5, "40 times better")],
)
def test_the_headline_does_not_flatter(tmp_path: Path, share: float, words: str) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    write_results(root / "pretrain", "retrieval", {"text_to_image_r5": share}, [])
    assert f"That is {words}" in Elements(page_of(root)).text


def test_a_pretraining_folder_itself_will_do(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    assert "a red fox cub" in Elements(page_of(root / "pretrain")).text


def test_a_folder_with_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds nothing to report"):
        read_run(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        read_run(tmp_path / "missing")


def test_an_unwritable_output_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    (tmp_path / "file").write_text("")
    for output, message in ((tmp_path, "is a folder"), (tmp_path / "file" / "x", "written")):
        with pytest.raises(ConfigError, match=message):
            write_report(ReportConfig(run=str(root), output=str(output)), lambda line: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_thumbnails_come_from_the_held_out_data(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", pictures=20, side=400))
    pictures = held_out_thumbnails(run, picture_keys(run) | {"missing"})
    assert set(pictures) == {f"{i:06d}" for i in range(20)}
    assert thumbnail(b"not a picture") is None
    assert thumbnail(None) is None


def test_data_that_moved_leaves_the_captions_readable(tmp_path: Path) -> None:
    root = make_run(tmp_path / "run", pictures=2)
    (root / "data" / "heldout").rename(tmp_path / "elsewhere")
    page = page_of(root)
    assert not Elements(page).of("img")
    assert "Held-out pictures cannot be opened" in page
    assert "picture 000001" in page


def test_shared_words_are_marked_as_phrases() -> None:
    marked = mark_shared("a Red fox, sleeping", ["the red fox runs", "a dog"])
    assert marked == [("a Red fox", True), (", sleeping", False)]
    assert mark_shared("", ["x"]) == []
    assert mark_shared("  ", ["x"]) == [("  ", False)]
