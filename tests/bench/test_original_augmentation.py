"""The original's operations in OpenCV, which ours in Pillow are held to as well."""

import io

import numpy as np
import pytest
from PIL import Image

from bench import original_augmentation as original
from bench.test_data import photo
from engine.data.augment import OPERATIONS, UNCHANGING, apply_operation

SAME = (*UNCHANGING, "auto_contrast", "equalize", "translate_x", "translate_y")
# OpenCV shears by where a pixel begins, Pillow by its middle: the same up to the other sign, which
# is drawn, but for some hundredths of a pixel and what lies at the border.
WARPS = ("shear_x", "shear_y", "rotate")


def view() -> Image.Image:
    """A photograph as it is augmented."""
    return Image.open(io.BytesIO(photo(1, 500, 375))).resize((224, 224))


def test_there_are_the_same_operations() -> None:
    assert set(original.OPERATIONS) == set(OPERATIONS) == {*SAME, *WARPS}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", SAME)
def test_what_moves_by_whole_pixels_or_by_tables_is_equal(name: str, sign: int) -> None:
    theirs = original.OPERATIONS[name](np.array(view()), sign)
    assert np.array_equal(np.asarray(apply_operation(view(), name, sign)), theirs)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", WARPS)
def test_warps_are_equal_but_for_parts_of_a_pixel(name: str, sign: int) -> None:
    turned = sign if name == "rotate" else -sign
    theirs = original.OPERATIONS[name](np.array(view()), sign).astype(int)
    apart = np.abs(np.asarray(apply_operation(view(), name, turned)).astype(int) - theirs)
    assert apart.mean() < 1 and (apart > 2).mean() < 0.01
    other = np.asarray(apply_operation(view(), name, -turned)).astype(int)
    assert np.abs(other - theirs).mean() > 10
