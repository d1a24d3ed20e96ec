"""Training views made fast: how far from the definition, and the same refusals."""

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from engine.data import jpeg
from engine.data.augment import GREY, Augmentation, apply_operation, crop_box, normalised, to_bytes
from engine.data.counter import Draws
from engine.data.fast_view import divisor_of, fast_view, resized
from engine.data.images import BadSample, decode_image
from tests.shards import bomb, picture

MOST = 10_000_000
DECODERS = [jpeg.by_pillow, jpeg.by_simplejpeg]


@cache
def photo(width: int, height: int, number: int = 0) -> Image.Image:
    """Structure at all scales, as a photograph has."""
    generator = np.random.default_rng(number)
    total = generator.normal(0, 6, (height, width, 3))
    for octave in range(1, 7):
        small = Image.fromarray(generator.integers(0, 256, (2**octave, 2**octave, 3), np.uint8))
        total += np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, form: str = "JPEG", **settings: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **settings)
    return out.getvalue()


def steps_apart(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Differences in steps of 255."""
    return (one.float() - other.float()).abs()


@pytest.mark.parametrize("enhance", [ImageEnhance.Brightness, ImageEnhance.Sharpness])
def test_two_operations_change_nothing_at_blips_strength(enhance: Callable) -> None:
    image = photo(64, 64)
    assert np.array_equal(np.asarray(enhance(image).enhance(0.1 + 1.8 * 0.5)), np.asarray(image))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_moving_by_whole_pixels_interpolates_nothing(name: str, sign: int) -> None:
    shift = sign * 10 * 0.5
    matrix = (1, 0, shift, 0, 1, 0) if name == "translate_x" else (1, 0, 0, 0, 1, shift)
    kinds = Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    expected = photo(64, 48).transform((64, 48), *kinds, fillcolor=GREY)
    moved = apply_operation(photo(64, 48), name, sign)
    assert np.array_equal(np.asarray(moved), np.asarray(expected))


def test_a_view_of_bytes_is_within_two_steps() -> None:
    differing = 0.0
    for number in range(12):
        box = crop_box(500, 375, 0.2, Draws(number))
        image = photo(500, 375, number % 3)
        expected = image.crop(box).resize((96, 96), Image.Resampling.BICUBIC)
        view = torch.from_numpy(resized(np.array(image), box, 96))
        apart = steps_apart(view, to_bytes(expected))
        assert apart.max() <= 2
        differing += (apart != 0).float().mean().item() / 12
    assert differing < 0.01


@pytest.mark.parametrize("decoder", DECODERS)
def test_without_a_smaller_decode_whole_views_are_within_two_steps(decoder: jpeg.Decoder) -> None:
    augmentation, content = Augmentation(160, 0.2, True, False), encoded(photo(300, 200))
    for slot in range(8):
        expected = augmentation(decode_image(content, MOST), Draws(slot))
        view = fast_view(content, MOST, augmentation, Draws(slot), decoder)
        assert view.is_contiguous()
        assert steps_apart(view, expected).max() <= 2


def test_whole_augmented_views_stay_close() -> None:
    """Contrast and equalizing stretch what cropping leaves apart; half a step in the mean."""
    augmentation, content = Augmentation(96, 0.2, True, True), encoded(photo(190, 150))
    differing = 0
    for slot in range(40):
        expected = augmentation(decode_image(content, MOST), Draws(slot))
        view = fast_view(content, MOST, augmentation, Draws(slot), jpeg.by_simplejpeg)
        assert view.is_contiguous() and view.shape == expected.shape
        assert steps_apart(view, expected).mean() < 0.5
        differing += int(not torch.equal(view, expected))
    assert differing


@pytest.mark.parametrize(("width", "height"), [(800, 601), (1600, 1200)])
def test_decoded_small_views_stay_close(width: int, height: int) -> None:
    """In the mean within 1.5 steps, and less than the definition's own view moved by a pixel."""
    augmentation, content = Augmentation(96, 0.3, False, False), encoded(photo(width, height))
    for slot in range(4):
        expected = augmentation(decode_image(content, MOST), Draws(slot))
        view = fast_view(content, MOST, augmentation, Draws(slot), jpeg.by_simplejpeg)
        moved = steps_apart(expected.roll(1, 2), expected)[:, :, 1:].mean()
        assert 0 < steps_apart(view, expected).mean() < min(1.5, moved)


def test_both_decoders_give_the_same_pixels() -> None:
    kinds = ({}, {"subsampling": 0}, {"progressive": True}, {"quality": 30}, {"keep_rgb": True})
    for settings in kinds:
        content = encoded(photo(301, 203), **settings)
        for divisor in jpeg.DIVISORS:
            one, other = (decode(content, divisor) for decode in DECODERS)
            assert one.shape == (-(-203 // divisor), -(-301 // divisor), 3)
            assert np.array_equal(one, other)


def test_the_divisor_leaves_the_crop_as_large_as_the_view() -> None:
    sides = [(447, 900), (448, 448), (900, 1800), (1792, 2000), (9000, 9000), (10, 10)]
    found = [divisor_of((7, 5, 7 + width, 5 + height), 224) for width, height in sides]
    assert found == [1, 2, 4, 8, 8, 1]


OTHERS = {
    "png": encoded(photo(90, 70), "PNG"),
    "webp": encoded(photo(90, 70), "WEBP", lossless=True),
    "grey": encoded(photo(90, 70).convert("L")),
    "cmyk": encoded(photo(90, 70).convert("CMYK")),
    "transparent": encoded(photo(90, 70).convert("RGBA"), "PNG"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", OTHERS)
def test_other_pictures_go_the_definitions_way(name: str, decoder: jpeg.Decoder) -> None:
    augmentation = Augmentation(48, 0.5, True, True)
    expected = augmentation(decode_image(OTHERS[name], MOST), Draws(3))
    view = fast_view(OTHERS[name], MOST, augmentation, Draws(3), decoder)
    assert steps_apart(view, expected).mean() < 0.2


GOOD = encoded(photo(600, 400))
BAD = [
    None,
    b"",
    b"\xff\xd8",
    b"\xff\xd8\xff\xe0" + b"x" * 300,
    b"<html>",
    bomb(9999, 9999),
    encoded(photo(2000, 20)),
    picture(1)[:60],
    *(GOOD[: len(GOOD) * part // 10] for part in range(1, 10)),
    GOOD[:-2],
]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_pictures_are_bad_for_the_same_reason(number: int, decoder: jpeg.Decoder) -> None:
    augmentation = Augmentation(32, 0.2, True, True)

    def judged(view: Callable[[], torch.Tensor]) -> str:
        try:
            view()
        except BadSample as bad:
            return bad.reason
        return "good"

    most = 1_000_000
    expected = judged(lambda: augmentation(decode_image(BAD[number], most), Draws(1)))
    found = judged(lambda: fast_view(BAD[number], most, augmentation, Draws(1), decoder))
    assert found == expected


def test_flipped_bytes_never_do_more_than_the_definition_allows() -> None:
    augmentation, chance = Augmentation(32, 0.2, True, True), np.random.default_rng(0)
    for _ in range(60):
        content = bytearray(GOOD)
        for place in chance.integers(2, len(content), 3):
            content[place] = chance.integers(256)
        reasons = []
        for view in (
            lambda given: augmentation(decode_image(given, MOST), Draws(1)),
            lambda given: fast_view(given, MOST, augmentation, Draws(1), jpeg.by_simplejpeg),
        ):
            try:
                assert view(bytes(content)).shape == (3, 32, 32)
                reasons.append("")
            except BadSample as bad:
                reasons.append(bad.reason)
        assert reasons[0] == reasons[1]


def test_tensors_are_what_numpy_computes() -> None:
    image = photo(64, 64)
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    expected = np.asarray(image, np.float32) * (1 / (255 * std)) + -mean / std
    assert np.array_equal(normalised(to_bytes(image)).numpy(), expected.transpose(2, 0, 1))
