"""Views of whole pictures are the definition's bytes, whoever resizes."""

import numpy as np
import pytest
import torch
from PIL import Image

from engine.data.augment import evaluation_bytes, evaluation_view
from engine.data.images import BadSample, decode_image
from engine.data.whole_views import LARGE, brought, carried, packed, picture_for, whole_views
from kernels import resize
from tests.nasty import JPEG, PICTURES

# Higher, wider, as large as a view, smaller, and one that is resized by threads.
SIZES = [(9, 9), (40, 17), (16, 50), (16, 16), (3, 50), (200, 150)]
SIZE = 16
MOST = 25_000_000
HERE = "cuda" if torch.cuda.is_available() else "cpu"


def picture_of(size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def pictures() -> list[Image.Image]:
    return [picture_of(size) for size in SIZES]


@pytest.mark.parametrize("kind", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_normalised_many_at_once_they_are_the_views_of_each(
    pictures: list[Image.Image], kind: str
) -> None:
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device(kind)
    held = [carried(one, SIZE, device) for one in pictures]
    want = torch.stack([evaluation_view(one, SIZE) for one in pictures])
    found = brought(held, SIZE, device).cpu()
    assert torch.equal(whole_views(held, SIZE, device).cpu(), views_of(pictures))
    torch.testing.assert_close(found, want, rtol=0, atol=0 if kind == "cpu" else 1e-6)


@pytest.mark.parametrize("backend", ["reference", "triton"])
def test_pixels_that_a_gpu_resizes_give_the_same_bytes(
    pictures: list[Image.Image], backend: str
) -> None:
    """What threads hand over for a GPU, on a CPU."""
    held = [carried(one, SIZE, torch.device("cuda")) for one in pictures]
    assert {one.dtype for one in held} == {torch.uint8}
    as_decoded = [
        one.shape == (height, width, 3) for one, (width, height) in zip(held, SIZES, strict=True)
    ]
    assert as_decoded == [width * height <= LARGE * SIZE * SIZE for width, height in SIZES]
    assert held[-1].shape == (SIZE, SIZE, 3)
    sides = [(one.shape[0], one.shape[1]) for one in held]
    made = resize(packed(held, pinned=False).to(HERE), sides, SIZE, backend=backend)
    assert torch.equal(made.cpu(), views_of(pictures))


def outcome(content: bytes, device: torch.device) -> bytes | str:
    """Pixels, or why there are none."""
    try:
        picture = picture_for(content, MOST, device)
    except BadSample as bad:
        return bad.reason
    pixels = np.asarray(picture)
    return b"%d %d " % pixels.shape[:2] + pixels.tobytes()


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_decoded_for_a_gpu_is_the_definitions(name: str) -> None:
    content, reason = PICTURES[name]
    found = outcome(content, torch.device("cuda"))
    assert found == outcome(content, torch.device("cpu"))
    assert isinstance(found, str) == bool(reason)


def test_damaged_pictures_are_what_they_are_to_the_definition() -> None:
    """Some of them can be decoded, to something else."""
    chance, kinds = np.random.default_rng(0), set()
    for _ in range(200):
        damaged = bytearray(JPEG)
        for place in chance.integers(2, len(JPEG), 3):
            damaged[place] = chance.integers(256)
        found = outcome(bytes(damaged), torch.device("cuda"))
        assert found == outcome(bytes(damaged), torch.device("cpu"))
        kinds.add(type(found))
    assert kinds == {bytes, str}
    assert isinstance(decode_image(JPEG, MOST), Image.Image)


def views_of(pictures: list[Image.Image]) -> torch.Tensor:
    return torch.stack([evaluation_bytes(one, SIZE) for one in pictures])
