"""DALI's part of a view: a JPEG's crop decoded, resized and mirrored, on a GPU or its CPU form.

It is fed batch by batch with what the slots' own counters drew, and holds no order, no random
number and no state that a resumed run would miss.

How far from the definition, in steps of 255: at most 1, in a fifth of the values, because Pillow
rounds between the two passes of its bicubic filter and DALI does not; the decoded pixels are the
same. That is of DALI's CPU form: a GPU decodes by nvJPEG, whose inverse DCT rounds otherwise.
Only the crop is decoded. DALI does not decode JPEGs at a part of their size, so it has no use for
`data.fast_views`.
"""

import importlib.util
import io
from collections import deque
from typing import Any

import torch
from PIL import Image

from engine.data.augment import to_bytes
from engine.data.planned_view import PlannedView, PlannedViews

# Batches under way at once: one that a step waits for, and the next.
AHEAD = 2
# Mean distance of a tried view: far above what roundings make, far below another picture.
TRIAL_STEPS = 3.0
INPUTS = {"encoded": ("UINT8", 1), "corner": ("INT32", 1), "extent": ("INT32", 1)}
INPUTS |= {"mirror": ("INT32", 0)}


def is_installed() -> bool:
    """Whether DALI is there, with the library that decodes for it."""
    try:
        return all(importlib.util.find_spec(f"nvidia.{n}") for n in ("dali", "nvimgcodec"))
    except ModuleNotFoundError:
        return False


def trial(size: int) -> tuple[PlannedViews, torch.Tensor]:
    """A mirrored crop of a smooth picture, and [1, 3, S, S] uint8 of it by the definition."""
    image = Image.linear_gradient("L").convert("RGB").resize((192, 160))
    image.paste((200, 40, 90), (96, 0, 192, 80))
    content, box, cubic = io.BytesIO(), (33, 17, 161, 145), Image.Resampling.BICUBIC
    image.save(content, "JPEG", quality=95)
    view = Image.open(content).crop(box).resize((size, size), cubic)
    expected = to_bytes(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[None]
    return PlannedViews.of([PlannedView(content.getvalue(), box, True, [], size)]), expected


class DaliViews:
    """Makes views in the order that they are started in, `AHEAD` batches at once at most.

    It begins with a small picture of its own and compares what comes of it with the definition, so
    that one that cannot work, or works wrongly, on this device is found before a run begins.

    Where one picture of a batch cannot be decoded, `take` raises, and this object is of no more
    use: DALI ends its pipeline with its first error.

    Args:
        device: that the views are made on.
        most: views of a batch.
        size: of their sides.
        threads: of the host.

    Raises:
        Exception: DALI cannot run here, or its views are not the definition's.
    """

    def __init__(self, device: torch.device, most: int, size: int, threads: int) -> None:
        from nvidia.dali import Pipeline, fn, types

        self.device, self.size = device, size
        self._under_way: deque[PlannedViews] = deque()
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        number = None
        if device.type == "cuda":
            number = torch.cuda.current_device() if device.index is None else device.index
        self._pipeline = Pipeline(most, threads, number, prefetch_queue_depth=AHEAD)
        with self._pipeline:
            given = {
                name: fn.external_source(name=name, dtype=getattr(types, kind), ndim=dimensions)
                for name, (kind, dimensions) in INPUTS.items()
            }
            pixels = fn.decoders.image_slice(
                given["encoded"],
                device="cpu" if number is None else "mixed",
                start=given["corner"],
                shape=given["extent"],
                axis_names="HW",
                output_type=types.RGB,
                # As Pillow decodes: no turning by EXIF, and libjpeg's way to widen the colours.
                adjust_orientation=False,
                jpeg_fancy_upsampling=True,
            )
            sides, cubic = (size, size), types.INTERP_CUBIC
            views = fn.resize(
                pixels, size=sides, interp_type=cubic, antialias=True, dtype=types.UINT8
            )
            # Lays the channels first and mirrors; nothing is normalised yet.
            views = fn.crop_mirror_normalize(
                views,
                mirror=given["mirror"],
                dtype=types.UINT8,
                output_layout="CHW",
                mean=[0.0, 0.0, 0.0],
                std=[1.0, 1.0, 1.0],
            )
            self._pipeline.set_outputs(views)
        self._pipeline.build()
        self._try_out()

    def _try_out(self) -> None:
        """DALI's first scheduling takes as many batches as may be under way."""
        planned, expected = trial(self.size)
        for _ in range(AHEAD):
            self._feed(planned)
        self._pipeline.schedule_run()
        self._under_way.extend([planned] * AHEAD)
        for _ in range(AHEAD):
            apart = (self.take(planned).cpu().float() - expected.float()).abs().mean()
            if not apart <= TRIAL_STEPS:
                raise RuntimeError(f"its views are {apart:.1f} steps of 255 from Pillow's")

    def start(self, planned: PlannedViews) -> None:
        """Begin with a batch."""
        self._feed(planned)
        self._pipeline.schedule_run()
        self._under_way.append(planned)

    def _feed(self, planned: PlannedViews) -> None:
        corners, opposite = (planned.boxes[:, place].numpy() for place in ([1, 0], [3, 2]))
        self._pipeline.feed_input("encoded", planned.contents())
        self._pipeline.feed_input("corner", corners)
        self._pipeline.feed_input("extent", opposite - corners)
        self._pipeline.feed_input("mirror", planned.mirror.numpy())

    def take(self, planned: PlannedViews) -> torch.Tensor:
        """Views of the oldest batch that was started: [P, 3, S, S] uint8 on the device, without
        their operations.

        Args:
            planned: the batch, so that none is taken for another.

        Raises:
            Exception: DALI could not decode one of its pictures, or it is not the oldest.
        """
        if not self._under_way or self._under_way[0] is not planned:
            raise RuntimeError("not the oldest batch under way")
        self._under_way.popleft()
        (views,) = self._pipeline.share_outputs()
        copied = self._copied(views)
        self._pipeline.release_outputs()
        return copied

    def _copied(self, views: Any) -> torch.Tensor:
        """Out of DALI's memory, without waiting for the steps that the GPU has still to do."""
        from nvidia.dali.plugin.pytorch.torch_utils import feed_ndarray

        shape = (len(views), 3, self.size, self.size)
        if self._copies is None:
            return feed_ndarray(views.as_tensor(), torch.empty(shape, dtype=torch.uint8))
        with torch.cuda.stream(self._copies):
            copied = torch.empty(shape, dtype=torch.uint8, device=self.device)
            feed_ndarray(views.as_tensor(), copied, cuda_stream=self._copies)
        self._copies.synchronize()
        # It was allocated for the copies' stream and is used by the steps'.
        copied.record_stream(torch.cuda.current_stream(self.device))
        return copied
