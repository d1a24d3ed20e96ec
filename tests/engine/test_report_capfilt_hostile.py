"""Captions, keys, uids, reasons and settings of a run are hostile: the page stays what it is."""

from collections import Counter
from pathlib import Path

import pytest

from tests.capfilt_folder import data_of
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
