"""torchvision's views against the definition's: on a CPU by its own decoder where it has one for
this PyTorch, else by simplejpeg's, which is the same library; and on a GPU where there is one."""

from functools import partial

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from engine.data.augment import Augmentation, to_bytes
from engine.data.counter import Draws
from engine.data.device_augment import augmented
from engine.data.images import decode_image
from engine.data.planned_view import PlannedView, PlannedViews, plan
from engine.data.torchvision_views import TorchvisionViews, by_torchvision, parts, resized
from engine.data.view_maker import AHEAD
from tests.engine.test_dali import SIZE, pictures
from tests.engine.test_fast_view import GOOD, MOST, encoded, photo, steps_apart

CPU = torch.device("cpu")


def by_simplejpeg(
    pictures: list[torch.Tensor], device: torch.device, **words: bool
) -> list[torch.Tensor]:
    """As `by_torchvision`."""
    pixels = [simplejpeg.decode_jpeg(one.numpy(), "RGB", **words) for one in pictures]
    return [torch.from_numpy(one).permute(2, 0, 1).to(device) for one in pixels]


class BySimplejpeg(TorchvisionViews):
    decode = staticmethod(by_simplejpeg)


class ByRepeating(TorchvisionViews):
    """Colours are widened without interpolation, as torchvision has nvJPEG do it."""

    decode = staticmethod(partial(by_simplejpeg, fastupsample=True))


def decodes_here() -> bool:
    """Whether this torchvision decodes on a CPU; one for GPUs needs a PyTorch for GPUs."""
    try:
        by_torchvision([torch.frombuffer(bytearray(GOOD), dtype=torch.uint8)], CPU)
    except Exception:  # noqa: BLE001 - it does not even import
        return False
    return True


@pytest.fixture(params=["simplejpeg", "cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def maker(request: pytest.FixtureRequest) -> partial[TorchvisionViews]:
    """To be given a size."""
    if request.param == "simplejpeg":
        return partial(BySimplejpeg, CPU)
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if not TorchvisionViews.is_installed() or (request.param == "cpu" and not decodes_here()):
        pytest.skip("no torchvision that decodes here")
    return partial(TorchvisionViews, torch.device(request.param))


def most_apart(maker: partial[TorchvisionViews]) -> tuple[float, float]:
    """Steps that a value of a view may be off by, and a view in the mean, before any operation.

    On a CPU none: the decoded pixels are the same, and so is the filter. nvJPEG repeats colours
    where libjpeg interpolates (`test_repeated_colours_are_near_in_the_mean` says what that
    does) and its inverse DCT rounds otherwise: an expectation which no GPU has confirmed.
    """
    (device,) = maker.args
    return (0, 0) if device.type == "cpu" else (64, 3)


def made(maker: partial[TorchvisionViews], plans: list[PlannedView]) -> torch.Tensor:
    """[N, 3, S, S] uint8, through the decoder and the operations."""
    planned, views = PlannedViews.of(plans), maker(plans[0].size)
    views.start(planned)
    return augmented(views.take(planned), planned.operations).cpu()


def planned_and_expected(augmentation: Augmentation) -> tuple[list[PlannedView], torch.Tensor]:
    contents = list(enumerate(pictures()))
    plans = [plan(content, MOST, augmentation, Draws(n)) for n, content in contents]
    views = [augmentation(decode_image(content, MOST), Draws(n)) for n, content in contents]
    return plans, torch.stack(views)


def test_crops_are_the_definitions_to_the_bit_once_decoded(
    maker: partial[TorchvisionViews],
) -> None:
    plans, expected = planned_and_expected(Augmentation(SIZE, 0.2, True, False))
    assert {one.mirror for one in plans} == {True, False}
    apart = steps_apart(made(maker, plans), expected)
    most, mean = most_apart(maker)
    assert apart.max() <= most
    assert apart.mean((1, 2, 3)).max() <= mean


def test_repeated_colours_are_near_in_the_mean() -> None:
    """What of nvJPEG's distance can be had on a CPU, and that it does not pass for the other."""
    plans, expected = planned_and_expected(Augmentation(SIZE, 0.2, True, False))
    apart = steps_apart(made(partial(ByRepeating, CPU), plans), expected)
    assert 1 < apart.max() <= 20
    assert apart.mean((1, 2, 3)).max() < 2
    assert apart.mean() < 0.6


def test_hard_edges_enlarged_and_shrunk_thirty_times() -> None:
    """One pass without rounding and clipping between is up to 26 steps from Pillow's two here."""
    chance = np.random.default_rng(0)
    noise = Image.fromarray(chance.integers(0, 2, (300, 300, 3), np.uint8) * np.uint8(255))
    smooth, whole = photo(960, 960), (0, 0, 960, 960)
    cases = [(noise, (0, 0, 300, 300), size) for size in (7, 32, 96, 400)]
    cases += [(smooth, whole, 32), (smooth, (400, 500, 403, 501), 96), (smooth, (0, 0, 1, 1), 16)]
    for image, box, size in cases:
        view = resized([to_bytes(image)], [box], size)
        expected = image.crop(box).resize((size, size), Image.Resampling.BICUBIC)
        assert torch.equal(view[0], to_bytes(expected))


def test_views_end_to_end_after_all_operations(maker: partial[TorchvisionViews]) -> None:
    """Tables that spread few levels over 255 spread distances too (as of DALI's)."""
    plans, expected = planned_and_expected(Augmentation(SIZE, 0.5, True, True))
    apart = steps_apart(made(maker, plans), expected)
    most, mean = most_apart(maker)
    assert apart.mean((1, 2, 3)).max() <= 3 * mean
    assert (apart > most).float().mean() < 0.01


def test_batches_come_in_their_order_and_alone_to_the_same_bits(
    maker: partial[TorchvisionViews], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And in parts, as pictures too large to be decoded at once are."""
    augmentation = Augmentation(32, 0.2, True, False)
    plans = [plan(c, MOST, augmentation, Draws(n)) for n, c in enumerate(pictures()[:8])]
    planned, views = PlannedViews.of(plans), maker(32)
    batches = [planned, *(planned.alone(number) for number in range(8))]
    taken: list[torch.Tensor] = []
    for number, batch in enumerate(batches):
        views.start(batch)
        if number >= AHEAD - 1:
            taken.append(views.take(batches[len(taken)]).cpu())
    with pytest.raises(RuntimeError, match="not the oldest"):
        views.take(batches[0])
    taken.append(views.take(batches[-1]).cpu())
    assert torch.equal(taken[0], torch.cat(taken[1:]))
    monkeypatch.setattr("engine.data.torchvision_views.AT_ONCE", 150_000)
    assert torch.equal(made(maker, plans), taken[0])


def test_parts_are_as_large_as_they_may_be() -> None:
    cut = [range(6)[part] for part in parts([3, 4, 3, 9, 1, 1], 7)]
    assert [list(part) for part in cut] == [[0, 1], [2], [3], [4, 5]]


def test_turned_by_exif_as_the_definition_is_not(maker: partial[TorchvisionViews]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(photo(90, 70), exif=exif)
    (view,) = made(maker, [PlannedView(content, (0, 0, 90, 70), False, [], 64)])
    expected = decode_image(content, MOST).resize((64, 64), Image.Resampling.BICUBIC)
    assert steps_apart(view, to_bytes(expected)).mean() <= most_apart(maker)[1]


def test_a_broken_picture_is_refused(maker: partial[TorchvisionViews]) -> None:
    """Whole from segment to segment, with more codes in a table than fit."""
    counts = GOOD.index(b"\xff\xc4\x00\x1f\x00") + 5
    broken = GOOD[:counts] + b"\xff\xff" + GOOD[counts + 2 :]
    plans = [PlannedView(content, (0, 0, 60, 60), False, [], 32) for content in (GOOD, broken)]
    planned, views = PlannedViews.of(plans), maker(32)
    with pytest.raises(Exception):  # noqa: B017 - a decoder's errors are of any kind
        views.start(planned)
    with pytest.raises(RuntimeError, match="not the oldest"):
        views.take(planned)
    assert made(maker, plans[:1]).float().std() > 0


@pytest.mark.gpu
def test_memory_that_steps_still_read_is_not_written_to() -> None:
    """torchvision's decoder alone overwrites it (its pull request 9606)."""
    if not torch.cuda.is_available() or not TorchvisionViews.is_installed():
        pytest.skip("needs an NVIDIA GPU and torchvision")
    device = torch.device("cuda")
    plans = [PlannedView(GOOD, (0, 0, 600, 400), False, [], 64)] * 32
    planned, views = PlannedViews.of(plans), TorchvisionViews(device, 64)
    for _ in range(10):
        freed = [torch.full((3, 400, 600), 7, dtype=torch.uint8, device=device) for _ in plans]
        torch.cuda.synchronize()
        # A tenth of a second, so that the sums are still to be done when their pictures are freed.
        torch.cuda._sleep(200_000_000)
        sums = [picture.sum() for picture in freed]
        del freed
        views.start(planned)
        views.take(planned)
        assert {total.item() for total in sums} == {7 * 3 * 400 * 600}
