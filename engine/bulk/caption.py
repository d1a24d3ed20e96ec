"""Captions of many pictures, to the terminal or into a file."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from engine.bulk.batches import encoded
from engine.bulk.config import CaptionConfig
from engine.bulk.inputs import find_places
from engine.bulk.opened import opened
from engine.bulk.skipped import Skipped
from engine.bulk.tables import refuse_existing, storable, table
from engine.capfilt.captioner import Captioner, Group
from engine.config import ConfigError
from engine.data.picture_files import printable
from engine.data.source import RawSample
from engine.progress import Progress

SCHEMA = pa.schema([(name, pa.string()) for name in ("path", "uid", "caption")])


@torch.no_grad()
def caption_pictures(config: CaptionConfig, say: Callable[[str], None]) -> str:
    """Caption every usable picture in the order given.

    Args:
        config: of the run.
        say: takes a line `path<TAB>caption` for each caption where there is no output file; what
            would break a line is escaped in it.

    Returns:
        What was done, in a line.

    Raises:
        ConfigError: no usable picture, no model, or an output that cannot be written.
    """
    if config.output is not None:
        refuse_existing(Path(config.output))
    skipped = Skipped()
    places, count = find_places(config.pictures, config.image_root, skipped.add)
    if not count:
        raise ConfigError(f"no usable picture: {skipped}")
    captioner = Captioner(blip := opened(config), config.caption, config.seed)
    in_work: deque[list[RawSample]] = deque()
    captioned = 0

    def groups() -> Iterator[Group]:
        how = {"batch_size": config.batch_size, "threads": config.threads}
        how["max_pixels"] = config.max_pixels
        progress = Progress("captioned", "pictures", count)
        for samples, states in encoded(blip, places, progress, skipped, **how):
            in_work.append(samples)
            yield states, [sample.uid for sample in samples]

    to_file = nullcontext() if config.output is None else table(Path(config.output), SCHEMA)
    with to_file as output, blip.autocast():
        for made in captioner.captions(groups(), config.batch_size):
            rows = [
                row for pair in zip(in_work.popleft(), made, strict=True) for row in _rows(*pair)
            ]
            captioned += len(made)
            if output is not None:
                output.add(rows)
                continue
            for row in rows:
                say(f"{printable(row['path'])}\t{printable(row['caption'])}")
        if not captioned:
            raise ConfigError(f"no usable picture: {skipped}")
    return f"{captioned} pictures captioned, {skipped}"


def _rows(sample: RawSample, captions: list[str]) -> list[dict[str, Any]]:
    path, uid = storable(sample.key), storable(sample.uid)
    return [{"path": path, "uid": uid, "caption": caption} for caption in captions]
