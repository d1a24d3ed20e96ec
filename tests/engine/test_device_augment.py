"""RandAugment on tensors against its definition on Pillow: the same bytes."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.augment import (
    MEAN,
    OPERATIONS,
    STD,
    UNCHANGING,
    apply_operation,
    normalised,
    to_bytes,
)
from engine.data.device_augment import augmented, encoded_operations
from tests.engine.test_fast_view import photo

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIDE = 33


@cache
def pictures() -> tuple[Image.Image, ...]:
    """Photographs, noise, few levels, nearly one level, and one level only."""
    chance = np.random.default_rng(3)
    shape = (SIDE, SIDE, 3)
    nearly = np.full(shape, 7, np.uint8)
    nearly[0, :40, 1] = 8
    arrays = [
        chance.integers(0, 256, shape, np.uint8),
        chance.integers(90, 140, shape, np.uint8),
        chance.integers(0, 2, shape, np.uint8) * 255,
        nearly,
        np.full(shape, 200, np.uint8),
        np.full(shape, (0, 128, 255), np.uint8),
    ]
    return (photo(SIDE, SIDE, 1), photo(SIDE, SIDE, 2), *map(Image.fromarray, arrays))


def by_definition(image: Image.Image, operations: list[tuple[str, int]]) -> torch.Tensor:
    for name, sign in operations:
        image = apply_operation(image, name, sign)
    return to_bytes(image)


def compared(
    device: str, given: list[tuple[Image.Image, list[tuple[str, int]]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """All at once on the device, and each by Pillow."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    views = torch.stack([to_bytes(image) for image, _ in given]).to(device)
    codes = torch.tensor([encoded_operations(operations) for _, operations in given])
    before = views.clone()
    found = augmented(views, codes).cpu()
    assert torch.equal(views, before)
    return found, torch.stack([by_definition(*one) for one in given])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_gives_pillows_bytes(name: str, sign: int, device: str) -> None:
    found, expected = compared(device, [(image, [(name, sign)]) for image in pictures()])
    assert torch.equal(found, expected)
    untouched = torch.stack([to_bytes(image) for image in pictures()])
    assert torch.equal(found, untouched) == (name in UNCHANGING)


@pytest.mark.parametrize("device", DEVICES)
def test_all_pairs_of_operations_in_one_batch(device: str) -> None:
    signed = [(name, sign) for name in OPERATIONS for sign in (1, -1)]
    image = pictures()[0]
    found, expected = compared(device, [(image, [one, two]) for one in signed for two in signed])
    assert torch.equal(found, expected)


def test_an_odd_and_an_even_side_of_the_recipes() -> None:
    for side in (224, 225):
        for name in ("rotate", "shear_x", "shear_y"):
            image = photo(side, side)
            codes = torch.tensor([encoded_operations([(name, 1)])])
            found = augmented(to_bytes(image)[None], codes)
            assert torch.equal(found[0], by_definition(image, [(name, 1)]))


@pytest.mark.parametrize("device", DEVICES)
def test_bytes_are_normalised_in_float32_one_operation_after_the_other(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    views = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 2, 1)
    ready, kept = normalised(views.to(device)), views.clone()
    numbers = views.numpy().astype(np.float32)
    scale, offset = (x.astype(np.float32)[:, None, None] for x in (1 / (255 * STD), -MEAN / STD))
    assert ready.dtype == torch.float32 and torch.equal(views, kept)
    assert np.array_equal(ready.cpu().numpy(), numbers * scale + offset)
