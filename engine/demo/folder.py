"""A folder's pictures, embedded once, found by text."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch

from engine.bulk.inputs import Read, find_places
from engine.bulk.skipped import Skipped
from engine.config import ConfigError
from engine.data.images import BadSample
from engine.data.whole_views import brought, carried, picture_for
from engine.inference import LoadedBlip
from engine.pictures import ahead
from engine.progress import Progress

Ready = tuple[Read, torch.Tensor]
# What was read instead of a usable picture: its name and why it is none.
Unusable = tuple[str, str]


@dataclass(frozen=True)
class Folder:
    """Pictures by number.

    Attributes:
        reads: what reads each of them.
        features: [N, E], unit vectors.
        skipped: files that are no usable picture, in words; "" where there are none.
    """

    reads: list[Read]
    features: torch.Tensor
    skipped: str

    def search(self, text_feature: torch.Tensor, count: int) -> list[tuple[int, float]]:
        """Numbers of the `count` pictures nearest to a text [E], and their cosines."""
        scores = self.features @ text_feature
        best = scores.topk(min(count, len(scores)))
        return list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


@torch.no_grad()
def embedded(name: str, blip: LoadedBlip, batch_size: int, max_pixels: int) -> Folder:
    """Embed the pictures below a folder; what is unusable is named on stderr and left out.

    Args:
        name: of the folder, or a shard.
        blip: weights that match.
        batch_size: pictures a forward pass.
        max_pixels: larger ones are left out.

    Raises:
        ConfigError: no usable picture.
    """
    skipped = Skipped()
    places, count = find_places([name], None, skipped.add)
    progress = Progress("embedded", "pictures", count)
    size = blip.model.config.image_size

    def ready(read: Read) -> Ready | Unusable:
        sample = read()
        try:
            if sample.problem:
                raise BadSample(sample.problem)
            picture = picture_for(sample.image, max_pixels, blip.device)
            return read, carried(picture, size, blip.device)
        except BadSample as bad:
            return sample.key, bad.reason

    def usable() -> Iterator[Ready]:
        reads = (read for place in places for read in place.reads())
        for one in ahead(ready, reads, batch_size):
            if isinstance(one[0], str):
                skipped.add(*one)
                progress.add(1)
            else:
                yield one

    found, reads, features = usable(), [], []
    while batch := list(islice(found, batch_size)):
        views = brought([view for _, view in batch], size, blip.device)
        features.append(blip.model.image_feature(blip.model.encode_image(views)).cpu())
        reads += [read for read, _ in batch]
        progress.add(len(batch))
    if not reads:
        raise ConfigError(f"folder {name}: no usable picture: {skipped}")
    return Folder(reads, torch.cat(features), str(skipped) if skipped.total else "")
