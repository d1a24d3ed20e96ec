"""What a model did best and worst in an evaluation: a few items of each, with small pictures."""

from collections.abc import Callable, Sequence
from typing import Any

from engine.data.held_out import HeldOut
from engine.data.videos import decode_video
from engine.report.thumbnails import encoded, shrunk

# Cases of a kind; and of their pictures the longer side in pixels, and WebP's quality.
MOST, SIDE, QUALITY = 8, 160, 75
Case = dict[str, Any]
# Label, place in the set, and whether it is the second picture of that item.
Picture = tuple[str, int, bool]


def best_and_worst(
    samples: HeldOut,
    scores: Sequence[Any],
    owners: Sequence[int],
    described: Callable[[int], tuple[Case, list[Picture]]],
) -> dict[str, Any]:
    """Cases as `cases.json` holds them.

    Args:
        samples: that were evaluated.
        scores: of each item, the higher the better.
        owners: of each item the picture; items of pictures that are not shown yet come first.
        described: what an item's number stands for: `score` (in words), `asked`, `output`, `truth`
            (a list), as far as the task has them, and such cases of its `rounds`, of one `truth`
            each; and its pictures.

    Returns:
        count, and `best` and `worst`, the furthest from the middle first.
    """
    numbers, key = range(len(scores)), scores.__getitem__
    most = min(MOST, (len(scores) + 1) // 2)
    # Sorting keeps the order of equal ones, both ways.
    best = _of_different_pictures(sorted(numbers, key=key, reverse=True), owners, most)
    worst_first = [number for number in sorted(numbers, key=key) if number not in best]
    worst = _of_different_pictures(worst_first, owners, most)
    return {
        "count": len(scores),
        "best": [_with_pictures(samples, *described(number)) for number in best],
        "worst": [_with_pictures(samples, *described(number)) for number in worst],
    }


def _of_different_pictures(order: list[int], owners: Sequence[int], most: int) -> list[int]:
    """The first `most` of an order, at first one a picture; still in that order."""
    shown: set[int] = set()
    chosen: list[int] = []
    for number in order:
        if len(chosen) < most and owners[number] not in shown:
            shown.add(owners[number])
            chosen.append(number)
    for number in order:
        if len(chosen) < most and number not in chosen:
            chosen.append(number)
    places = {number: place for place, number in enumerate(order)}
    return sorted(chosen, key=places.__getitem__)


def _with_pictures(samples: HeldOut, case: Case, pictures: list[Picture]) -> Case:
    shown = []
    for label, place, second in pictures:
        raw = samples.source.read(samples.rows[place])
        content = raw.second if second else raw.image
        if samples.frames:
            # Between its beginning and its end; it was decoded before.
            image = decode_video(content, 2, samples.max_pixels)[1]
            image.thumbnail((SIDE, SIDE))
        else:
            image = shrunk(content, SIDE)
        uri = None if image is None else encoded(image, QUALITY)
        shown.append({"label": label, "key": samples.keys[place], "image": uri})
    return case | {"pictures": shown}
