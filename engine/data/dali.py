"""DALI's part of a view: a JPEG's crop decoded, resized and mirrored, on a GPU or its CPU form.

How far from the definition, in steps of 255: at most 1, in a fifth of the values, because Pillow
rounds between the two passes of its bicubic filter and DALI does not; the decoded pixels are the
same. That is of DALI's CPU form: a GPU decodes by nvJPEG, whose inverse DCT rounds otherwise.
Only the crop is decoded. DALI does not decode JPEGs at a part of their size, so it has no use for
`data.fast_views`.
"""

import importlib.util
from collections import deque
from typing import Any

import torch

from engine.data.planned_view import PlannedViews
from engine.data.view_maker import AHEAD, refuse_another, trial

INPUTS = {"encoded": ("UINT8", 1), "corner": ("INT32", 1), "extent": ("INT32", 1)}
INPUTS |= {"mirror": ("INT32", 0)}


class DaliViews:
    """As `ViewMaker`. Where one picture of a batch cannot be decoded, `take` raises, or the next
    `start`: DALI ends its pipeline with its first error.

    Args:
        device: that the views are made on.
        most: views of a batch.
        size: of their sides.
        threads: of the host.

    Raises:
        Exception: DALI cannot run here, or its views are not the definition's.
    """

    name = "DALI"
    install = "pip install '.[gpu-decoding]'"

    @staticmethod
    def is_installed() -> bool:
        """Whether DALI is there, with the library that decodes for it."""
        try:
            return all(importlib.util.find_spec(f"nvidia.{n}") for n in ("dali", "nvimgcodec"))
        except ModuleNotFoundError:
            return False

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
            refuse_another(self.take(planned), expected)

    def start(self, planned: PlannedViews) -> None:
        """As `ViewMaker.start`."""
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
        """As `ViewMaker.take`."""
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
