"""The bounds of captions and pictures, each met exactly and passed by one; rows that come again."""

import io
from typing import Any

import pytest
from PIL import Image

from engine.collect.web.census import CaptionCounts
from engine.collect.web.config import ScreenSection
from engine.collect.web.lists import Row
from engine.collect.web.picture import PictureScreen
from engine.collect.web.refusal import Refused
from engine.collect.web.texts import TextScreen
from engine.collect.web.url import parse_url

URL = "http://a.test/b"


def text_screen(counts: CaptionCounts | None = None, **bounds: Any) -> TextScreen:
    return TextScreen(ScreenSection(**bounds), counts, frozenset())


def picture(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height)).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(
    ("bounds", "within", "beyond", "reason"),
    [
        ({"min_words": 3}, "a red dog", "red dog", "caption_short"),
        ({"max_words": 3}, "a red dog", "a red dog barks", "caption_long"),
        ({"min_characters": 5}, "a dog", "dogs", "caption_short"),
        ({"max_characters": 5}, "a dog", "a dogs", "caption_long"),
    ],
    ids=str,
)
def test_a_caption_at_a_bound_is_within_it(
    bounds: dict[str, int], within: str, beyond: str, reason: str
) -> None:
    screen = text_screen(**bounds)
    assert screen.look_at(Row(0, URL, within)) == parse_url(URL)
    with pytest.raises(Refused) as caught:
        screen.look_at(Row(1, URL, beyond))
    assert caught.value.reason == reason


def test_a_caption_may_repeat_as_often_as_is_said() -> None:
    counts = CaptionCounts()
    counts.add(["a dog"] * 2)
    assert text_screen(counts, max_repeats=2).look_at(Row(0, URL, "a dog")) == parse_url(URL)
    with pytest.raises(Refused, match="caption_frequent"):
        text_screen(counts, max_repeats=1).look_at(Row(0, URL, "a dog"))


def test_rows_of_finished_shards_are_not_taken_again() -> None:
    screen, finished = text_screen(), Row(0, URL, "a dog")
    screen.pass_over(finished)
    with pytest.raises(Refused, match="repeated_row"):
        screen.look_at(finished)
    assert screen.look_at(Row(1, URL, "another caption")) == parse_url(URL)


@pytest.mark.parametrize(
    ("bounds", "within", "beyond", "reason"),
    [
        ({"min_side": 24}, (24, 30), (23, 30), "too_small"),
        ({"min_side": 24}, (30, 24), (30, 23), "too_small"),
        ({"min_side": 8, "max_aspect": 2.5}, (20, 50), (20, 51), "too_thin"),
        ({"min_side": 8, "max_aspect": 2.5}, (50, 20), (51, 20), "too_thin"),
        ({"min_side": 8, "max_pixels": 600}, (30, 20), (31, 20), "too_many_pixels"),
    ],
    ids=str,
)
def test_a_picture_at_a_bound_is_within_it(
    bounds: dict[str, Any], within: tuple[int, int], beyond: tuple[int, int], reason: str
) -> None:
    screen = PictureScreen(ScreenSection(**bounds), 1)
    found = screen.look_at(picture(*within))
    assert (found.width, found.height) == within
    with pytest.raises(Refused) as caught:
        screen.look_at(picture(*beyond))
    assert caught.value.reason == reason
