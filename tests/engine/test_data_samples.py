"""Pictures, captions, order, augmentation, tokens."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blip_model.config import BlipConfig, preset
from engine.config import ConfigError
from engine.data.augment import (
    Augmentation,
    crop_box,
    evaluation_view,
)
from engine.data.captions import choose_caption, clean_caption
from engine.data.counter import Draws, first_bits, key_of
from engine.data.images import BadSample, decode_image, to_rgb
from engine.data.order import Order
from engine.data.tokenizer import open_tokenizer
from tests.nasty import CAPTIONS, GOOD, MARKS, PICTURES, encoded, fuzzed

LIMIT = 25_000_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "missing"), *((content, why) for content, why in PICTURES.values() if why)],
    ids=["not there", *(name for name, (_, why) in PICTURES.items() if why)],
)
def test_a_bad_picture_has_its_reason(content: bytes | None, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        decode_image(content, LIMIT)
    assert caught.value.reason == reason


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 40), 32768, np.uint16))
    else:
        image = GOOD.convert("L").convert(mode) if mode == "LA" else GOOD.convert(mode)
    decoded = decode_image(encoded(image, "JPEG" if mode == "CMYK" else "PNG"), LIMIT)
    assert decoded.mode == "RGB"
    assert decoded.size == image.size
    if mode == "I;16":
        assert abs(decoded.getpixel((5, 5))[0] - 128) <= 1


def test_whole_numbers_that_are_bytes_are_no_16_bits() -> None:
    for value, seen in ((200, 200), (32768, 128)):
        numbers = Image.fromarray(np.full((4, 4), value, np.int32))
        assert (numbers.mode, to_rgb(numbers).getpixel((1, 1))) == ("I", (seen, seen, seen))


def test_a_transparent_value_of_16_bits_changes_no_other() -> None:
    """It cannot be told from the upper byte, and must not be taken for a value of 8 bits."""
    grey = Image.fromarray(np.array([[0, 0x8000, 0xFFFF, 0x0100]] * 4, np.uint16))
    decoded = decode_image(encoded(grey, "PNG", transparency=0x8000), LIMIT)
    assert [decoded.getpixel((x, 1))[0] for x in range(4)] == [0, 128, 255, 1]


def test_transparency_goes_on_white() -> None:
    clear = encoded(Image.new("RGBA", (30, 30), (255, 0, 0, 0)), "PNG")
    assert decode_image(clear, LIMIT).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A Dog.", "a dog"),
        ('He said: "hello!" (twice) #1 *~;', "he said hello twice 1"),
        ("  many   spaces\n\tand lines ", "many spaces and lines"),
        ("don't, co-op", "don't, co-op"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("a\u0000b\u202ec", "abc"),
        ("bad \ud800 half", "bad ? half"),
    ],
)
def test_captions_are_cleaned_as_the_original_does(text: str, cleaned: str) -> None:
    assert clean_caption(text, 30) == cleaned


@pytest.mark.parametrize("text", [None, 3, b"x", ["a"], float("nan")])
def test_what_is_not_text_is_a_bad_caption(text: object) -> None:
    with pytest.raises(BadSample, match="bad_text"):
        clean_caption(text, 30)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_cleaning_never_fails_otherwise(text: str) -> None:
    try:
        cleaned = clean_caption(text, 5)
    except BadSample as bad:
        assert bad.reason == "empty_caption"
        return
    assert cleaned == cleaned.strip()
    assert len(cleaned.split(" ")) <= 5
    assert "  " not in cleaned


def test_a_letter_keeps_no_more_marks_than_can_be_composed_at_once() -> None:
    cleaned = clean_caption("a" + MARKS[::4] + " dog", 30)
    assert (cleaned[0], cleaned[-4:], len(cleaned)) == ("a", " dog", 35)
    assert clean_caption("o\u0302\u0300 z\u0323\u0307", 30) == "\u1ed3 \u1e93\u0307"


@pytest.mark.parametrize("texts", [CAPTIONS, fuzzed(300, seed=1)], ids=["known", "fuzzed"])
def test_nasty_captions_become_few_tokens_or_a_reason(texts: list) -> None:
    tokenizer, reasons = open_tokenizer(None), Counter()
    for text in texts:
        try:
            cleaned = clean_caption(text, 30)
        except BadSample as bad:
            reasons[bad.reason] += 1
            continue
        # Composed, some characters become three times as long.
        assert len(cleaned.encode()) <= 3 * 4096
        assert tokenizer.encode([cleaned], 30)[0].shape[1] <= 30
    assert set(reasons) <= {"bad_text", "empty_caption"}
    assert reasons["bad_text"] == sum(not isinstance(text, str) for text in texts)


def test_one_caption_of_several_is_chosen_and_a_bad_one_passed_over() -> None:
    chosen = Counter(choose_caption(["a", "b", "..."], 30, Draws(n)) for n in range(300))
    assert set(chosen) == {"a", "b"}
    assert min(chosen.values()) > 60
    with pytest.raises(BadSample, match="empty_caption"):
        choose_caption(["...", ""], 30, Draws(0))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(sum),
    st.integers(0, 2**32),
    st.integers(1, 6),
)
def test_an_epoch_holds_every_sample_once(lengths: list[int], seed: int, window: int) -> None:
    order = Order(lengths, seed, window)
    for epoch in (0, 3):
        seen = [order.sample(epoch, position) for position in range(len(order))]
        assert sorted(seen) == list(range(len(order)))


def test_order_changes_with_epoch_and_seed_and_mixes_well() -> None:
    order, other = Order([100] * 10, 1, 4), Order([100] * 10, 2, 4)
    first = np.array([order.sample(0, p) for p in range(1000)])
    second = np.array([order.sample(1, p) for p in range(1000)])
    elsewhere = np.array([other.sample(0, p) for p in range(1000)])
    assert (first == second).mean() < 0.02
    assert (first == elsewhere).mean() < 0.02
    inside = np.corrcoef(np.arange(400), np.argsort(np.argsort(first[:400])))[0, 1]
    assert abs(inside) < 0.15


@pytest.mark.parametrize("lengths", [[1] * 50, [50]], ids=["shards", "samples of a shard"])
def test_each_epoch_has_an_order_of_its_own(lengths: list[int]) -> None:
    order = Order(lengths, 0, 1)
    epochs = [[order.sample(epoch, place) for place in range(50)] for epoch in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_crops_keep_the_promised_area_and_aspect() -> None:
    for number in range(300):
        left, top, right, bottom = crop_box(100, 80, 0.2, Draws(number))
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 80
        width, height = right - left, bottom - top
        assert 0.18 * 8000 <= width * height <= 8000
        assert 0.70 <= width / height <= 1.40


def test_crops_reach_every_edge_and_may_be_as_long_as_it() -> None:
    boxes = [crop_box(8, 8, 0.2, Draws(number)) for number in range(300)]
    for low, high in ((0, 2), (1, 3)):
        assert {box[high] - box[low] for box in boxes} == set(range(3, 9))
        inside = [box for box in boxes if box[high] - box[low] == 5]
        assert {box[low] for box in inside} == {0, 1, 2, 3}


def test_half_of_the_views_are_mirrored_and_half_of_the_operations_are_done() -> None:
    """Within four standard deviations; and half of the signs are each."""
    augment, count = Augmentation(32, 0.2, True, True), 4000
    drawn = [augment.drawn(Draws(0, slot)) for slot in range(count)]
    assert sum(mirror for mirror, _ in drawn) / count == pytest.approx(0.5, abs=2 / count**0.5)
    signs = [sign for _, operations in drawn for _, sign in operations]
    assert len(signs) / (2 * count) == pytest.approx(0.5, abs=2 / (2 * count) ** 0.5)
    assert sum(signs) / len(signs) == pytest.approx(0, abs=4 / len(signs) ** 0.5)
    plain = Augmentation(32, 0.2, False, False)
    assert all(plain.drawn(Draws(0, slot)) == (False, []) for slot in range(100))


def test_augmentation_is_a_function_of_its_counters() -> None:
    augment = Augmentation(32, 0.2, True, True)
    views = [augment(GOOD, Draws(1, slot)) for slot in (5, 5, 6)]
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (3, 32, 32)


def test_draws_of_many_streams_at_once_are_those_of_each() -> None:
    streams = [(0, 0), (1, 2**64 - 1), (7, 12345, 3)]
    many = first_bits([key_of(*counters) for counters in streams], 30)
    for counters, row in zip(streams, many.tolist(), strict=True):
        draws = Draws(*counters)
        assert row == [draws.bits() for _ in range(30)]


def test_normalisation_is_the_originals() -> None:
    view = evaluation_view(Image.new("RGB", (9, 9), (255, 0, 128)), 4)
    expected = [(1 - 0.48145466) / 0.26862954, -0.4578275 / 0.26130258]
    assert view[:2, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_the_tokenizer_adds_two_tokens_and_cuts_with_sep() -> None:
    tokenizer = open_tokenizer(None, preset("base"))
    assert (tokenizer.bos_token_id, tokenizer.enc_token_id) == (30522, 30523)
    ids, mask = tokenizer.encode(["a dog", "one two three four five six seven"], 6)
    assert ids.shape == (2, 6)
    assert ids[:, 0].tolist() == [101, 101]
    assert ids[1, -1].item() == 102
    assert mask.sum(1).tolist() == [4, 6]
    assert tokenizer.decode(ids) == ["a dog", "one two three four"]


def test_a_vocabulary_without_needed_tokens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\ndog\n")
    with pytest.raises(ConfigError, match=r"lacks \[CLS\], \[SEP\]"):
        open_tokenizer(str(path))
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\ndog\n")
    with pytest.raises(ConfigError, match="7 tokens with .* the network has 30524"):
        open_tokenizer(str(tmp_path), preset("base"))
    ids = {"pad_token_id": 0, "sep_token_id": 3, "bos_token_id": 5, "enc_token_id": 6}
    assert open_tokenizer(str(tmp_path), BlipConfig(vocab_size=7, **ids)).vocab_size == 7
    for token, (name, ours) in zip(("PAD", "SEP", "DEC", "ENC"), ids.items(), strict=True):
        other = BlipConfig(vocab_size=7, **ids | {name: 2})
        with pytest.raises(ConfigError, match=rf"\[{token}\] is token {ours}, but 2 in the netw"):
            open_tokenizer(str(tmp_path), other)
    with pytest.raises(ConfigError, match="no such file"):
        open_tokenizer(str(tmp_path / "nowhere"))
