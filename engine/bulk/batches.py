"""Samples in batches of a model's size: read and decoded by threads, the bad ones told."""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch

from engine.bulk.inputs import Place, Read
from engine.bulk.skipped import Skipped
from engine.data.images import BadSample
from engine.data.source import RawSample
from engine.data.whole_views import brought, carried, picture_for
from engine.encoding import Encoding, refuse_not_finite
from engine.pictures import ahead
from engine.progress import Progress

Ready = tuple[RawSample, torch.Tensor | None, str]


def encoded(
    blip: Encoding,
    places: Sequence[Place],
    progress: Progress,
    skipped: Skipped,
    *,
    batch_size: int,
    threads: int,
    max_pixels: int,
) -> Iterator[tuple[list[RawSample], torch.Tensor]]:
    """Usable pictures with their states [B, P, vision width]; runs in the caller's autocast.

    A batch of pixels is in memory and one more ahead of it, however many there are.

    Raises:
        ConfigError: states that are not finite.
    """
    size = blip.model.config.image_size

    def ready(read: Read) -> Ready:
        sample = read()
        try:
            if sample.problem:
                raise BadSample(sample.problem)
            view = carried(picture_for(sample.image, max_pixels, blip.device), size, blip.device)
        except BadSample as bad:
            return sample, None, bad.reason
        return sample, view, ""

    reads = (read for place in places for read in place.reads())
    found = _usable(ahead(ready, reads, batch_size, threads), progress, skipped)
    while batch := list(islice(found, batch_size)):
        views = brought([view for _, view in batch], size, blip.device)
        states = blip.model.encode_image(views)
        refuse_not_finite(states, "states")
        yield [sample for sample, _ in batch], states
        progress.add(len(batch))


def _usable(
    found: Iterator[Ready], progress: Progress, skipped: Skipped
) -> Iterator[tuple[RawSample, torch.Tensor]]:
    for sample, view, reason in found:
        if view is None:
            skipped.add(sample.key, reason)
            progress.add(1)
        else:
            yield sample, view
