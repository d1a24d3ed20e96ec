"""Captions, keys, uids, reasons and settings of a run are hostile: the page stays what it is."""

import shlex
from collections import Counter
from pathlib import Path

import pytest

from engine.capfilt.config import CapFiltConfig
from engine.capfilt.rule import WEB, Candidate
from engine.capfilt.table import Scored
from launch.cli import parse
from tests.capfilt_folder import data_of, write_capfilt
from tests.payloads import hostile_run, payloads
from tests.report_run import Elements, page_of


def tags(page: str) -> Counter[str]:
    return Counter(tag for tag, _ in Elements(page).found)


def test_there_are_thirty() -> None:
    assert len(set(payloads("x"))) == 30


@pytest.mark.parametrize("rounds", [False, True])
def test_payloads_add_no_element(tmp_path: Path, rounds: bool) -> None:
    """Their page has the same elements as that of a run with harmless words in their place."""
    pages = []
    for name, texts in (
        ("hostile", payloads("http" + "://127.0.0.1:9")),
        ("harmless", [f"word {number}" for number in range(30)]),
    ):
        root = hostile_run(tmp_path / name / "run", texts)
        pages.append(page_of(root.parent if rounds else root))
    hostile, harmless = pages
    assert tags(hostile) == tags(harmless)
    elements = Elements(hostile)
    for tag, attributes in elements.found:
        assert not [one for one in attributes if one.startswith("on") or one == "style"], tag
        assert not {"href", "src", "action", "srcdoc"} & attributes.keys() or tag == "img"
    assert len(elements.of("script")) == 2
    # Data cannot end its element, and loses nothing but control characters.
    blob = hostile.partition('id="capfilt-data">')[2].partition("</script>")[0]
    assert not set("<>&\u2028\u2029\u202e") & set(blob)
    shown = {"".join(one[4][0][1]) for one in data_of(hostile)["pictures"]}
    for text in payloads("http" + "://127.0.0.1:9"):
        if "\u202e" not in text and "\x00" not in text and len(text) < 300:
            assert text in shown


@pytest.mark.parametrize(
    ("itm", "itc", "edges"),
    [
        (0.5, 1.0, {"itm": [0.5, 0.51], "itc": [0.99, 1.0]}),
        (0.485, 1.5, {"itm": [0.48, 0.49, 0.5, 0.51], "itc": [0.99, 1.0]}),
    ],
)
def test_both_axes_fit_their_scores(
    tmp_path: Path, itm: float, itc: float, edges: dict[str, list[float]]
) -> None:
    """And reach the run's own threshold, where nothing lies below a cosine of 1, too."""
    root = write_capfilt(tmp_path, {"a": [Scored("0", "0", [Candidate(WEB, "a", itm, itc)])]})
    data = data_of(page_of(root))
    assert data["edges"] == edges
    assert sum(data["counts"]["web"]) == 1


def test_a_command_with_hundreds_of_shards_is_one_that_runs(tmp_path: Path) -> None:
    train = [f"/data/web pairs/{number:05d}.tar" for number in range(300)]
    shards = {"a": [Scored("0", "0", [Candidate(WEB, "a", 0.5, 0.2)])]}
    data = data_of(page_of(write_capfilt(tmp_path, shards, train=train)))
    words = shlex.split(" ".join(data["command"]))
    config = parse(CapFiltConfig, words[2:], description="", examples="")
    assert (config.data.train, config.from_table) == (train, str(tmp_path))
    assert len(" ".join(words)) < 1000
